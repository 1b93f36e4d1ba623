"""A file of any kind as text. Readers are imported when they are needed, in a child process but for decoding alone."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import IO, Any

from app.files.kinds import check
from app.files.readers import EXTRA, READERS
from app.files.types import Converted, Kind, Unreadable


def convert(file: IO[bytes], kind: Kind, most_chars: int, most_unpacked: int) -> dict[str, Any]:
    """The file as text; whatever its reader stumbles over becomes a sentence."""
    check(kind, file, most_unpacked)
    module, name = READERS[kind].function.split(":")
    try:
        converted: Converted = getattr(import_module(module), name)(file, most_chars)
    except (Unreadable, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise Unreadable(f"can't be read without {error.name}: {EXTRA}", passing=True) from error
    except Exception as error:  # readers raise whatever they like at a damaged file, and all of it means the same
        raise Unreadable(f"can't be read as {kind}: {_told(error)}") from error
    if not converted.text.strip():
        raise Unreadable("holds no text")
    return asdict(converted)


def _told(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
