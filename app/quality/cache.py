"""What models computed, kept by the hash of all that shaped it: an interrupted or repeated evaluation goes on here."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import apsw

FILE = "evaluations.db"
ASKED = 500
"""Keys in one question to SQLite."""

BUSY_MS = 30_000

BESIDE = 100
"""Bytes of a row that are not its value, at the most."""


class Cache:
    """Bytes by key, in one SQLite file of a folder, or without one in memory. What is damaged counts as missing."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._database = self._open()
        except (apsw.CorruptError, apsw.NotADBError):
            self._start_anew()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those that are there and whole."""
        found: dict[bytes, bytes] = {}
        waiting = iter(keys)
        while asked := list(islice(waiting, ASKED)):
            marks = ",".join("?" * len(asked))
            try:
                rows = self._database.execute(f"SELECT key, value FROM entries WHERE key IN ({marks})", asked)
                found |= {key: value[4:] for key, value in rows if _is_whole(value)}
            except (apsw.CorruptError, apsw.NotADBError):
                self._start_anew()
        return found

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        """All of them or none, but for what is larger than SQLite holds: that is computed anew each time."""
        most = self._database.limit(apsw.SQLITE_LIMIT_LENGTH) - BESIDE
        small = {key: value for key, value in entries.items() if len(value) <= most}
        rows = [(key, struct.pack("<I", zlib.crc32(value)) + value) for key, value in small.items()]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", rows)

    def close(self) -> None:
        self._database.close()

    def _open(self) -> apsw.Connection:
        database = apsw.Connection(str(self._path) if self._path else ":memory:")
        database.set_busy_timeout(BUSY_MS)
        database.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        return database

    def _start_anew(self) -> None:
        assert self._path is not None
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(FILE + ending).unlink(missing_ok=True)
        self._database = self._open()


def key(*parts: object) -> bytes:
    """The hash of these parts, whose borders count."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def _is_whole(value: bytes) -> bool:
    return len(value) >= 4 and struct.unpack("<I", value[:4])[0] == zlib.crc32(value[4:])
