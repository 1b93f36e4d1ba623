"""A backup is gathered: the truth as of one moment, and snapshots of its indexes that are no newer, and not too old.

A snapshot that is newer than the truth would show chunks that there are not; one that the log does not reach back to
would have to be built again. So snapshots are opened first and the moment is taken then; where the log was cut in
between, both are done again. Nothing waits for any of it: ingest, deletes and searches go on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Event
from uuid import uuid4

import apsw

from app.errors import Damaged, NoSpace, Unavailable
from app.stores import log
from app.stores.archive import FORMAT, Archive, Held, Manifest, Member, Part, describe
from app.stores.data_dir import COPY, DATABASE, INDEXES
from app.stores.pinned import ATTEMPTS, Pins, Snapshots
from app.stores.rows import now, number, rows

PAGES = 1024
"""Copied at once: four megabytes, between which the service may stop."""
GIVEN_UP = "The backup was given up."

STEPS = 100_000
"""Of SQLite's machine, likewise."""


def gather(db: apsw.Connection, data_dir: Path, stopping: Event) -> Archive:
    """All that a backup holds, read once and ready to be sent. Nobody else may use the connection meanwhile."""
    for _ in range(ATTEMPTS):
        _go_on(stopping)
        with ExitStack() as held:
            pins = Pins(data_dir, held)
            numbers = [collection for (collection,) in rows(db, "SELECT number FROM collections ORDER BY number")]
            snapshots = {each: pins.snapshots(data_dir / INDEXES / str(each)) for each in numbers}
            with _reading(db):
                if not _reaches(db, snapshots):
                    continue
                told, copy = _manifest(db, snapshots), _copy(db, data_dir, pins, stopping)
            parts = [copy, *(part for each in snapshots.values() for part in each.parts)]
            members = [_member(part, stopping) for part in parts]
            archive = Archive(told.model_copy(update={"members": members}), parts)
            held.pop_all()
            return archive
    raise Unavailable("The indexes were saved again and again while their files were being opened. Try again.")


@contextmanager
def _reading(db: apsw.Connection) -> Iterator[None]:
    """See one state of the truth, whatever is written meanwhile."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


def _reaches(db: apsw.Connection, snapshots: Mapping[int, Snapshots]) -> bool:
    """Whether the log leads on from every snapshot; of a collection that came since there is none."""
    return all(
        each.sequence >= log.floor(db, collection) for collection, held in snapshots.items() for each in held.every
    )


def _copy(db: apsw.Connection, data_dir: Path, pins: Pins, stopping: Event) -> Part:
    """The database as it is at this moment, in a file without a name: whatever ends this process ends the file."""
    size = int(db.pragma("page_count")) * int(db.pragma("page_size"))
    if (free := shutil.disk_usage(data_dir).free) < size:
        raise NoSpace(f"A backup first copies the database, of {size:,} bytes, and {data_dir} has room for {free:,}.")
    path = data_dir / f"{COPY}{uuid4().hex}"
    try:
        _copy_pages(db, path, stopping)
        copy = pins.pin(path)
    except apsw.InterruptError as error:
        raise Unavailable(GIVEN_UP) from error
    except apsw.FullError as error:
        raise NoSpace(f"{data_dir} has no room left for a copy of the database.") from error
    finally:
        for left in data_dir.glob(f"{path.name}*"):
            left.unlink()
    return Part(DATABASE, copy.file)


def _copy_pages(db: apsw.Connection, path: Path, stopping: Event) -> None:
    copy = apsw.Connection(str(path))
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF"):
            copy.execute(f"PRAGMA {pragma}")
        with copy.backup("main", db, "main") as work:
            while not work.done:
                _go_on(stopping)
                work.step(PAGES)
        copy.set_progress_handler(stopping.is_set, STEPS)
        if (found := rows(copy, "PRAGMA quick_check(1)")) != [("ok",)]:
            raise Damaged(f"The database is damaged: {found[0][0]}. `winnow check` says more.")
    finally:
        copy.close()


def _go_on(stopping: Event) -> None:
    if stopping.is_set():
        raise Unavailable(GIVEN_UP)


def _member(part: Part, stopping: Event) -> Member:
    """A graph is called by the beginning of its checksum, which tells whether the disk has kept it."""
    member, name = describe(part, lambda _: _go_on(stopping)), Path(part.name)
    if name.suffix == ".hnsw" and not member.sha256.startswith(name.stem):
        raise Damaged(f"{part.name} is damaged. `winnow check --repair` builds it again; then back up.")
    return member


def _manifest(db: apsw.Connection, snapshots: Mapping[int, Snapshots]) -> Manifest:
    return Manifest(
        format=FORMAT,
        winnow=version("winnow"),
        database=int(db.pragma("user_version")),
        created_at=now(),
        collections=[
            _held(db, snapshots.get(collection, Snapshots(None, None)), collection, name)
            for collection, name in rows(db, "SELECT number, name FROM collections ORDER BY number")
        ],
        members=[],
    )


def _held(db: apsw.Connection, snapshots: Snapshots, collection: int, name: str) -> Held:
    return Held(
        number=collection,
        name=name,
        documents=number(db, "SELECT count(*) FROM documents WHERE collection = ? AND state = 'live'", (collection,)),
        sequence=log.head(db, collection),
        vectors=snapshots.vectors.sequence if snapshots.vectors else None,
        words=snapshots.words.sequence if snapshots.words else None,
    )
