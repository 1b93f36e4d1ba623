"""SQLite, opened the way we trust it: one writer thread, a few readers, every commit on disk before it counts.

apsw rather than Python's sqlite3: the wheel brings a current SQLite, where Debian 12 has 3.40, older than the WAL fixes
of 3.51.3, and it reports errors of SQLite as they are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TypeVar

import apsw

from app.errors import StartupError
from app.stores.room import FULL, Room

T = TypeVar("T")

MIGRATIONS = resources.files("app.stores").joinpath("schema.sql").read_text().split("-- migration ")[1:]

READERS = 4
BUSY_MS = 5000

STEPS = 100_000
"""Of SQLite, some milliseconds, after which a reader looks whether anybody waits for it."""


class Database:
    """Runs pieces of work against the file: reads side by side, writes one after the other in transactions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.room = Room(path.parent)
        self._local = threading.local()
        self._opened: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._writes = 0
        self.state: int | None = 0
        """Stands for all that is committed, and changes with every write; None while a commit is under way."""
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")
        try:
            self._writer.submit(self._prepare).result()
        except apsw.Error as error:
            self.close()
            raise StartupError(
                f"{path} can't be opened: {error}. {_advice(error)}, or point WINNOW_DATA_DIR elsewhere."
            ) from error

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """What is read for a caller who has left is broken off: a reader is wanted by others."""
        left = threading.Event()

        def read() -> T:
            connection = self._connection()
            connection.set_progress_handler(left.is_set, STEPS)
            try:
                return self.read_here(work)
            finally:
                connection.set_progress_handler(None)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except asyncio.CancelledError:
            left.set()
            raise

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run the work in a transaction; when this returns, a power cut can't undo it.

        Once begun it runs to its end, also when the caller has left.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, work)

    def read_here(self, work: Callable[[apsw.Connection], T]) -> T:
        """Read in the calling thread, from one consistent state of the database."""
        connection = self._connection()
        with self._room_for(connection), connection:
            result = work(connection)
        return result

    async def read_apart(self, work: Callable[[apsw.Connection], T]) -> T:
        """For what takes long: on a connection and in a thread of its own, so that no search waits for a reader.

        It is no transaction: the work begins and ends its own.
        """
        return await asyncio.to_thread(self._read_apart, work)

    async def find_room(self) -> None:
        """See whether there is room again: raises NoSpace where there is none."""
        await self.write(self._probe)
        self.room.found()

    def close(self) -> None:
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        with self._lock:
            for connection in self._opened:
                connection.close()

    def _read_apart(self, work: Callable[[apsw.Connection], T]) -> T:
        connection = self._open(writes=False)
        try:
            return work(connection)
        finally:
            with self._lock:
                self._opened.remove(connection)
            connection.close()

    def _transact(self, work: Callable[[apsw.Connection], T]) -> T:
        """Not `with connection`, which holds the GIL for as long as the disk takes to commit."""
        connection = self._connection(writes=True)
        with self._room_for(connection):
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                with self._becoming_another():
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return result

    @contextmanager
    def _becoming_another(self) -> Iterator[None]:
        """Readers see a commit before the writer knows that it is done; also one that failed may have been done."""
        self._writes += 1
        self.state = None
        try:
            yield
        finally:
            self.state = self._writes

    @contextmanager
    def _room_for(self, connection: apsw.Connection) -> Iterator[None]:
        """SQLite tells a full disk from other troubles, but not a quota, nor a limit on a file's size."""
        try:
            with self.room.needed():
                yield
        except apsw.FullError as error:
            raise self.room.lack() from error
        except apsw.IOError as error:
            if connection.system_errno in FULL:
                raise self.room.lack() from error
            raise

    def _probe(self, db: apsw.Connection) -> None:
        self.room.probe()
        db.pragma("user_version", db.pragma("user_version"))  # a page to write, though nothing changes

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
        connection = self._connection(writes=True)
        if connection.readonly("main"):  # SQLite opens what it may not write to without a word
            raise apsw.ReadOnlyError("it may not be written to")
        _migrate(connection, self._path)


def _advice(error: apsw.Error) -> str:
    """What to do about a file that can't be opened."""
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError):
        return "See that this user may write to it and to its folder"
    if isinstance(error, apsw.BusyError):
        return "Close what else has it open"
    code = getattr(error, "extendedresult", 0)  # apsw's stubs do not have it
    if isinstance(error, apsw.FullError) or code == apsw.SQLITE_IOERR_SHMSIZE:
        return "Free some room on its disk"
    return "Restore a backup with `winnow restore FILE --force`"


def _migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the schema to this version's, or refuse a file that a later version wrote."""
    version = int(connection.pragma("user_version"))
    if version > len(MIGRATIONS):
        raise StartupError(
            f"{path} was written by a later version of Winnow (schema {version}, this one knows {len(MIGRATIONS)}). "
            "Start that version again, or point WINNOW_DATA_DIR elsewhere."
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        with connection:
            connection.execute("--" + migration)
            connection.pragma("user_version", number)
