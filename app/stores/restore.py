"""A backup becomes the content of a data folder: all of it, checked, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.errors import Conflict, NoSpace
from app.stores import data_dir as folder
from app.stores.archive import BadBackup, Manifest, read_manifest, unpack
from app.stores.sqlite import MIGRATIONS


@dataclass(frozen=True, slots=True)
class Restored:
    """What stands in the folder now, and where that is which stood there before."""

    manifest: Manifest
    replaced: Path | None


def restore(path: Path, data_dir: Path, *, force: bool, advance: Callable[[int], object]) -> Restored:
    """Check and replace; whoever calls this holds the folder."""
    if folder.is_occupied(data_dir) and not force:
        raise Conflict(
            f"{data_dir.resolve()} is not empty. Name another folder with --data-dir, or say --force: what is there is "
            f"then put aside, in a folder {folder.REPLACED}…"
        )
    _check(read_manifest(path), path, data_dir)
    partial = data_dir / folder.PARTIAL
    try:
        manifest = unpack(path, partial, advance)
        return Restored(manifest, folder.replace(data_dir))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(manifest: Manifest, path: Path, data_dir: Path) -> None:
    if manifest.database > len(MIGRATIONS):
        raise BadBackup(
            f"{path} was made by a later version of Winnow (schema {manifest.database}, this one knows "
            f"{len(MIGRATIONS)}): restore it with that one."
        )
    if (free := shutil.disk_usage(data_dir).free) < manifest.bytes:
        raise NoSpace(f"{path} holds {manifest.bytes:,} bytes, and {data_dir.resolve()} has room for {free:,}.")
