"""Files of JSON lines, plain or packed, with the place of each line for whoever has to mend it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from models.training.errors import TrainingError

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a pair as JSON writes it; mostly the other half is beside it."""

SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files of JSON lines in a folder, by name."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TrainingError(f"There is no file or folder {path}.")
    found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    if not found:
        raise TrainingError(f"{path} has no {', '.join(SUFFIXES)} files: name a file or a folder of them.")
    return found


def stem(file: Path) -> str:
    """The file's name without what follows the first dot: `faq` of `faq.jsonl.gz`."""
    return file.name.partition(".")[0]


def read_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place (`faq.jsonl:3`) and object."""
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}:{number}", _object(line, f"{file}:{number}")


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """A text file, unpacked on the way when its name ends in .gz; what can't be read of it becomes a sentence."""
    packed = file.suffix == ".gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8-sig") if packed else file.open(encoding="utf-8-sig") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise TrainingError(f"{file} is not UTF-8 text: convert it first.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TrainingError(f"{file} is damaged: {error}") from error


def content_hash(file: Path) -> str:
    """SHA-256 of a file as it lies on disk."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TrainingError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise TrainingError(f"{place} is not a JSON object.")
    if _HALF.search(line):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise TrainingError(
                f"{place} holds half of a surrogate pair, which is no text: write it anew as UTF-8."
            ) from error
    return row
