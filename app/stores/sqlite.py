"""SQLite, opened the way we trust it: one writer thread, a few readers, every commit on disk before it counts.

apsw rather than Python's sqlite3: the wheel brings a current SQLite, where Debian 12 has 3.40, older than the WAL fixes
of 3.51.3, and it reports errors of SQLite as they are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TypeVar

import apsw

from app.errors import StartupError

T = TypeVar("T")

READERS = 4
BUSY_MS = 5000


class Database:
    """Runs pieces of work against the file: reads side by side, writes one after the other in transactions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._opened: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")
        try:
            self._writer.submit(self._prepare).result()
        except apsw.Error as error:
            self.close()
            raise StartupError(
                f"{path} can't be opened: {error}. Repair it, or point WINNOW_DATA_DIR elsewhere."
            ) from error

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_here, work)

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run the work in a transaction; when this returns, a power cut can't undo it.

        Once begun it runs to its end, also when the caller has left.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, work)

    def read_here(self, work: Callable[[apsw.Connection], T]) -> T:
        """Read in the calling thread, from one consistent state of the database."""
        connection = self._connection()
        with connection:
            result = work(connection)
        return result

    def close(self) -> None:
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        with self._lock:
            for connection in self._opened:
                connection.close()

    def _transact(self, work: Callable[[apsw.Connection], T]) -> T:
        """Not `with connection`, which holds the GIL for as long as the disk takes to commit."""
        connection = self._connection(writes=True)
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _connection(self, *, writes: bool = False) -> apsw.Connection:
        held: apsw.Connection | None = getattr(self._local, "connection", None)
        if held is None:
            held = self._local.connection = self._open(writes=writes)
        return held

    def _open(self, *, writes: bool) -> apsw.Connection:
        connection = apsw.Connection(str(self._path))
        connection.set_busy_timeout(BUSY_MS)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        if not writes:
            connection.execute("PRAGMA query_only = ON")
            connection.wal_autocheckpoint(0)  # only the writer checkpoints: a reader's search never pays for it
        with self._lock:
            self._opened.append(connection)
        return connection

    def _prepare(self) -> None:
        _migrate(self._connection(writes=True), self._path)


def _migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the schema to this version's, or refuse a file that a later version wrote."""
    migrations = resources.files("app.stores").joinpath("schema.sql").read_text().split("-- migration ")[1:]
    version = int(connection.pragma("user_version"))
    if version > len(migrations):
        raise StartupError(
            f"{path} was written by a later version of Winnow (schema {version}, this one knows {len(migrations)}). "
            "Start that version again, or point WINNOW_DATA_DIR elsewhere."
        )
    for number, migration in enumerate(migrations[version:], version + 1):
        with connection:
            connection.execute("--" + migration)
            connection.pragma("user_version", number)
