"""What it takes for a file to be whole and to stay: synced, renamed, checked."""

from __future__ import annotations

import os
import shutil
from hashlib import file_digest
from pathlib import Path


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(partial: Path, path: Path) -> None:
    """A rename is on disk when its folder is."""
    partial.replace(path)
    sync(path.parent)


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file that nobody sees by half, not even after a power cut."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode)
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    rename(partial, path)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def size(path: Path) -> int:
    """Of a file that need not be there."""
    return path.stat().st_size if path.exists() else 0


def room(folder: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(folder).free
