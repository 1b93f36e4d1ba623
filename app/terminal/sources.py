"""What `winnow ingest` reads: documents, line by line and never more at once than one request holds, and files."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import orjson

from app.files.kinds import SUFFIXES

LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
FILES = tuple(suffix for suffix, kind in SUFFIXES.items() if kind != "jsonl")
"""What the service reads itself."""

BATCH_DOCUMENTS = 200
BATCH_BYTES = 4 * 2**20
LONGEST = 64 * 2**20
"""A line beyond this is refused unread: a document is held whole."""


class Unusable(Exception):
    """The paths can't be ingested together; the message says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read; its name is its path below the folder that was given."""

    path: Path
    name: str
    size: int

    @property
    def is_file(self) -> bool:
        """Whether it becomes one document, rather than one a line."""
        return self.name.lower().endswith(FILES)


@dataclass(slots=True)
class Found:
    """What there is to read, and what is not of a kind that can be."""

    sources: list[Source] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(source.size for source in self.sources)

    def add(self, path: Path, name: str) -> None:
        missing = not os.path.exists(path)  # a link to nowhere or to itself: reading it tells so, in its turn
        if not name.lower().endswith((*LINES, *FILES)) or not (missing or path.is_file()):
            self.skipped.append(path)
        else:
            self.sources.append(Source(path, name, 0 if missing else path.stat().st_size))


@dataclass(frozen=True, slots=True)
class Record:
    """One document: where it stands, and it as a line of JSON or the reason why there is none."""

    place: str
    line: bytes = b""
    fault: str = ""


@dataclass(slots=True)
class Batch:
    """As many documents as go into one request, and what was wrong between them."""

    good: list[Record] = field(default_factory=list)
    bad: list[Record] = field(default_factory=list)
    read: int = 0
    """Bytes of all files that have been read when this batch ends."""
    size: int = 0

    @property
    def body(self) -> bytes:
        return b"".join(record.line + b"\n" for record in self.good)

    def add(self, record: Record) -> bool:
        """Take the record in; says whether the batch is full."""
        (self.bad if record.fault else self.good).append(record)
        self.size += len(record.line)
        return self.size >= BATCH_BYTES or len(self.good) + len(self.bad) >= BATCH_DOCUMENTS


def find(paths: Sequence[Path]) -> Found:
    """Everything below these paths in a fixed order, each file once; hidden files are passed over, and folders that
    links lead to are told of and not gone into."""
    found, seen = Found(), set[str]()
    for path in paths:
        try:
            for file in _walk(path) if path.is_dir() else [path]:
                if (real := os.path.realpath(file)) not in seen:
                    seen.add(real)
                    found.add(file, file.relative_to(path).as_posix() if path.is_dir() else file.name)
        except OSError as error:
            raise Unusable(f"{error.filename} can't be read: {error.strerror}.") from error
    _check_names(found)
    return found


def batches(sources: Iterable[Source]) -> Iterator[Batch]:
    """The documents of files that hold one a line."""
    batch, done = Batch(), 0
    for source in sources:
        for record, position in _records(source):
            if batch.add(record):
                batch.read = done + position
                yield batch
                batch = Batch()
        done += source.size
    batch.read = done
    yield batch


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield from (link for each in folders if (link := Path(root, each)).is_symlink())
        yield from (Path(root, each) for each in sorted(files) if not each.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _check_names(found: Found) -> None:
    """Two files of the same name would be one document, and the second replace the first."""
    seen: dict[str, Path] = {}
    for source in found.sources:
        if source.is_file and source.name in seen:
            raise Unusable(
                f"{seen[source.name]} and {source.path} would both become the document '{source.name}'. "
                "Give a folder that holds both, or ingest them into two collections."
            )
        seen[source.name] = source.path


def _records(source: Source) -> Iterator[tuple[Record, int]]:
    """Each document, and how many bytes of the file were read up to it."""
    try:
        yield from _lines(source)
    except (OSError, EOFError, zlib.error) as error:
        yield Record(source.name, fault=f"can't be read any further: {error}"), source.size


def _lines(source: Source) -> Iterator[tuple[Record, int]]:
    with source.path.open("rb") as raw:
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if source.name.lower().endswith(".gz") else raw
        for number, line in enumerate(_bounded(file), 1):
            place = f"{source.name}:{number}"
            if line is None:
                yield Record(place, fault=f"is longer than {LONGEST} bytes"), raw.tell()
            elif line.strip():
                yield _record(place, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line), raw.tell()


def _bounded(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines; None for one that is too long to hold."""
    while line := file.readline(LONGEST):
        if len(line) < LONGEST or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
            pass
        yield None


def _record(place: str, line: bytes) -> Record:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Record(place, fault=f"is not valid JSON: {error}")
    if not isinstance(fields, dict):
        return Record(place, fault="is not a JSON object")
    own = _own(fields)
    metadata = own.get("metadata", {})
    if not isinstance(metadata, dict):
        return _written(place, own)  # the service says what is wrong with it
    if twice := sorted(fields.keys() & metadata.keys()):
        return Record(place, fault=f"has '{twice[0]}' both in its metadata and beside it: remove one")
    return _written(place, own | {"metadata": fields | metadata})


def _own(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the service's own fields out; what is left belongs to the metadata. A whole number is taken for an id."""
    if fields.get("id") is None:
        fields["id"] = fields.pop("_id", None)
    own = {name: fields.pop(name) for name in ("id", "text", "title", "metadata") if name in fields}
    if type(own["id"]) is int:
        own["id"] = str(own["id"])
    return {name: value for name, value in own.items() if value is not None}


def _written(place: str, document: dict[str, Any]) -> Record:
    try:
        return Record(place, orjson.dumps(document))
    except orjson.JSONEncodeError:  # a file's name may hold bytes that are no text
        return Record(place.encode("utf-8", "replace").decode(), fault="has a name that is not UTF-8: rename it")
