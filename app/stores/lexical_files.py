"""The files of a lexical index: which of them the last commit names, and whether those are whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

SEGMENTS = "meta.json"
"""Names the files that count; a commit that was cut short leaves others. What is wrong in it shows in missing files or
in the number of chunks."""

MANAGED = ".managed.json"
"""Names all files that tantivy has made, so that it can remove those that do not count any more."""

MAGIC = 1337
"""Ends the footer with a checksum that tantivy writes behind each file, and does not look at when it opens one."""

FILES = ("*.del", "*.fast", "*.fieldnorm", "*.idx", "*.pos", "*.store", "*.term", ".tmp*")
"""What tantivy writes beside its notes: parts of segments, and notes that were never renamed."""


def committed(folder: Path, segments: bytes) -> Iterator[Path]:
    """Those of the segments that a commit left."""
    try:
        for segment in json.loads(segments)["segments"]:
            name, deletes = str(segment["segment_id"]).replace("-", ""), segment["deletes"]
            marks = f"{name}.{deletes['opstamp']}.del" if deletes else ""
            yield from (file for file in folder.glob(f"{name}.*") if file.suffix != ".del" or file.name == marks)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{SEGMENTS} is damaged") from error


def sweep(folder: Path) -> None:
    """Remove what a commit that was cut short left behind. The next one may take the same names, and fails on a file
    that is there already."""
    kept = set(committed(folder, (folder / SEGMENTS).read_bytes()))
    for pattern in FILES:
        for file in folder.glob(pattern):
            if file not in kept:
                file.unlink()


def check(file: Path) -> None:
    """Raises ValueError for one that is not whole."""
    content = memoryview(file.read_bytes())
    length, magic = int.from_bytes(content[-8:-4], "little"), int.from_bytes(content[-4:], "little")
    end = len(content) - 8 - length
    try:
        whole = end >= 0 and magic == MAGIC and crc32(content[:end]) == json.loads(bytes(content[end:-8]))["crc"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{file.name} is damaged: its checksum differs")
