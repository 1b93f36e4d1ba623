"""Disks that fill up and have room again while a process writes to them."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from loadtest.process import Process

PAGE = 4096


class Disk(Protocol):
    """Where a service keeps its data."""

    folder: Path

    def fill(self, service: Process) -> None: ...

    def empty(self, service: Process) -> None: ...


@contextmanager
def synced(folder: Path) -> Iterator[list[str]]:
    """What is synced and renamed in a folder meanwhile, in its order: a power cut leaves what was synced before."""
    told, fsync, replace = list[str](), os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        told.extend(f"sync {path.name}" for path in (folder, *folder.rglob("*")) if path.stat().st_ino == inode)
        fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        told.append(f"{path.name} becomes {target.name}")
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", sync)
        patched.setattr(Path, "replace", rename)
        yield told


class Limited:
    """Any folder: the system lets the process write no file any further, which fails as a full disk does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, service: Process) -> None:
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def empty(self, service: Process) -> None:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, unlimited)


class Small:
    """A file system of a few megabytes, and another file that takes the rest of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self._filler = folder / "filler"

    def fill(self, service: Process) -> None:
        with self._filler.open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(PAGE))
            except OSError:
                return

    def empty(self, service: Process) -> None:
        self._filler.unlink()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system in memory; skips where this user may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
