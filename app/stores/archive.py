"""A backup as a file: a tar, and in front of it a manifest with the length and the checksum of all that follows."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import WinnowError
from app.stores.disk import sync

FORMAT = 1
"""Raised when a backup of this version could not be read by the version before."""

MANIFEST = "backup.json"
MANIFEST_BYTES = 64 * 2**20
BLOCK = 2**20
END = bytes(2 * tarfile.BLOCKSIZE)

PRIVATE = 0o600


class BadBackup(WinnowError):
    """A file that can't be restored; the message says why."""


class Member(BaseModel):
    """A file in the tar. Its name leads to nowhere else than into a data folder."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str = Field(pattern=r"^(winnow\.db|indexes/[0-9]+/(lexical/)?\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Held(BaseModel):
    """A collection, and the last changes that the truth and its snapshots hold."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    number: int
    name: str
    documents: int
    sequence: int
    vectors: int | None
    """None where there was no snapshot yet."""
    words: int | None


class Manifest(BaseModel):
    """What a backup is of."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: int
    winnow: str
    database: int
    """The version of its schema."""
    created_at: str
    collections: list[Held]
    members: list[Member]

    @property
    def bytes(self) -> int:
        return sum(member.bytes for member in self.members)


class _Format(BaseModel):
    """The one field that every version of the manifest has."""

    format: int


@dataclass(frozen=True, slots=True)
class Part:
    """An open file on its way into a backup: it can be read when its name is long gone."""

    name: str
    file: IO[bytes]

    def close(self) -> None:
        self.file.close()


class Archive:
    """A backup that is about to be written, or sent."""

    def __init__(self, manifest: Manifest, parts: Sequence[Part]) -> None:
        self.manifest = manifest
        self.taken = False
        """Whether all of it was, by whoever writes or sends it."""
        self._parts = parts
        self._head = manifest.model_dump_json(indent=1).encode()

    @property
    def size(self) -> int:
        """Of the whole file."""
        lengths = [len(self._head), *(member.bytes for member in self.manifest.members)]
        return sum(tarfile.BLOCKSIZE + length + _padding(length) for length in lengths) + len(END)

    def blocks(self) -> Iterator[bytes]:
        """The file, a piece at a time; it breaks off where a member is not what it was any more."""
        yield _header(MANIFEST, len(self._head)) + self._head + bytes(_padding(len(self._head)))
        for member, part in zip(self.manifest.members, self._parts, strict=True):
            yield _header(member.name, member.bytes)
            yield from _checked(member, part.file)
            yield bytes(_padding(member.bytes))
        yield END
        self.taken = True

    def close(self) -> None:
        for part in self._parts:
            part.close()


def describe(part: Part, advance: Callable[[int], object]) -> Member:
    """What a manifest says of a part, by reading all of it."""
    digest, size = sha256(), 0
    for block in _pieces(part.file):
        digest.update(block)
        size += len(block)
        advance(len(block))
    return Member(name=part.name, bytes=size, sha256=digest.hexdigest())


def read_manifest(path: Path) -> Manifest:
    with _opened(path) as tar:
        return _manifest(tar, path)


def unpack(path: Path, folder: Path | None, advance: Callable[[int], object]) -> Manifest:
    """Check every byte of a backup and, where a folder is given, write its members there, synced."""
    with _opened(path) as tar:
        manifest = _manifest(tar, path)
        for member, entry in zip_longest(manifest.members, iter(tar.next, None)):
            if not member or not entry or (entry.name, entry.size) != (member.name, member.bytes):
                raise BadBackup(f"{path} is not whole: {(member or entry).name} is missing, or not announced.")
            with _target(folder, member) as target:
                _copy(tar.extractfile(entry) or BytesIO(), target, member, advance)
    return manifest


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(BLOCK):
        yield block


def _checked(member: Member, file: IO[bytes]) -> Iterator[bytes]:
    digest = sha256()
    for block in _pieces(file):
        digest.update(block)
        yield block
    if digest.hexdigest() != member.sha256:
        raise BadBackup(f"{member.name} changed while it was sent.")


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, PRIVATE
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(length: int) -> int:
    return -length % tarfile.BLOCKSIZE


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise BadBackup(f"{path} is no backup, or is not whole: {error}.") from error


def _manifest(tar: tarfile.TarFile, path: Path) -> Manifest:
    entry = tar.next()
    file = tar.extractfile(entry) if entry and entry.name == MANIFEST and entry.size <= MANIFEST_BYTES else None
    if file is None:
        raise BadBackup(f"{path} is no backup: it does not begin with {MANIFEST}.")
    content = file.read()
    try:
        written = _Format.model_validate_json(content).format
        if written > FORMAT:
            raise BadBackup(f"{path} was written by a later version (format {written}, this one reads {FORMAT}).")
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadBackup(f"{MANIFEST} of {path} is damaged: {first['loc']} {first['msg']}.") from error


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        yield file
    sync(path)
    sync(path.parent)


def _target(folder: Path | None, member: Member) -> AbstractContextManager[IO[bytes] | None]:
    return _written(folder / member.name) if folder else nullcontext()


def _copy(source: IO[bytes], target: IO[bytes] | None, member: Member, advance: Callable[[int], object]) -> None:
    digest = sha256()
    while block := source.read(BLOCK):
        digest.update(block)
        if target:
            target.write(block)
        advance(len(block))
    if digest.hexdigest() != member.sha256:
        raise BadBackup(f"{member.name} is damaged: its checksum differs.")
