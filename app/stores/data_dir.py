"""A data folder: who works in it, what stands in it, and how all of it is replaced as one.

winnow.db, indexes/      the truth and its views
keys.json, quality/      who may ask; what the observer goes on with after a restart: neither is part of a backup
restore.partial/         a restore under way, of which nothing counts
backup.partial-…         the database, while a backup of it is being made
restored-TIME/           a restore that is whole: whatever happens now, its files take their places
replaced-TIME/           what stood in those places before
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from app.errors import StartupError
from app.stores.disk import rename, sync

DATABASE, INDEXES, QUALITY = "winnow.db", "indexes", "quality"
PLACES = {INDEXES: (INDEXES,), DATABASE: (f"{DATABASE}-wal", f"{DATABASE}-shm", DATABASE)}
"""What goes into which place, and all that has to leave it: a log that stayed would be taken for the new truth's."""

COPY = "backup.partial-"
PARTIAL, RESTORED, REPLACED = "restore.partial", "restored-", "replaced-"


def claim(data_dir: Path) -> IO[bytes]:
    """Hold the folder, and end what a killed backup or restore has begun in it: two writers would ruin an index."""
    data_dir.mkdir(parents=True, exist_ok=True)
    held = (data_dir / "lock").open("wb")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise StartupError(
            f"Another Winnow works in {data_dir}. Talk to it with --url, or choose another WINNOW_DATA_DIR."
        ) from None
    _settle(data_dir)
    return held


def require_truth(data_dir: Path) -> None:
    """Indexes without the database that they are views of: a start with an empty one would remove them in silence."""
    database, indexes = data_dir / DATABASE, data_dir / INDEXES
    if any(indexes.glob("*")) and not (database.exists() and database.stat().st_size):
        raise StartupError(
            f"{database} is missing or empty, though there are indexes of what it held. Put it back, or restore a "
            f"backup with `winnow restore FILE --force`. To begin anew, remove {indexes}."
        )


def is_occupied(data_dir: Path) -> bool:
    return any((data_dir / name).exists() for name in PLACES)


def replace(data_dir: Path) -> Path | None:
    """Let what was written to `restore.partial` take its places; returns where that is which stood there before.

    The first rename decides: before it nothing has happened, and after it `claim` goes on where this was killed.
    """
    partial = data_dir / PARTIAL
    (partial / INDEXES).mkdir(exist_ok=True)
    sync(partial)
    whole = data_dir / f"{RESTORED}{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    rename(partial, whole)
    return _take_places(whole)


def _settle(data_dir: Path) -> None:
    shutil.rmtree(data_dir / PARTIAL, ignore_errors=True)
    for copy in data_dir.glob(f"{COPY}*"):
        copy.unlink()
    for whole in sorted(data_dir.glob(f"{RESTORED}*")):
        _take_places(whole)


def _take_places(whole: Path) -> Path | None:
    data_dir = whole.parent
    aside = data_dir / whole.name.replace(RESTORED, REPLACED)
    for name, leaving in PLACES.items():
        if (whole / name).exists():  # otherwise it has its place already
            _put_aside((data_dir / each for each in leaving), aside)
            rename(whole / name, data_dir / name)
    whole.rmdir()
    sync(data_dir)
    return aside if aside.exists() else None


def _put_aside(paths: Iterable[Path], aside: Path) -> None:
    for path in paths:
        if path.exists():
            aside.mkdir(exist_ok=True)
            rename(path, aside / path.name)
