"""The audit log: a line of JSON for each write, on disk when this returns."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

PRIVATE = 0o600


def append(path: Path, facts: Mapping[str, object]) -> None:
    """Opened each time, so that whoever renames the file to rotate it has no one to tell."""
    line = orjson.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | dict(facts)) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, line: bytes) -> None:
    """All of it or nothing: the next line must not be glued to half of this one."""
    size = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, line)
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        os.ftruncate(descriptor, size)
        raise
