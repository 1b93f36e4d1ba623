"""What it takes for a file to be whole and to stay: synced, renamed, checked."""

from __future__ import annotations

import os
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


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody sees by half, not even after a power cut."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    rename(partial, path)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
