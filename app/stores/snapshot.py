"""A vector index on disk: whole and the right one, or not taken at all. The truth can always build it again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from shutil import disk_usage

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.settings import Settings
from app.stores import hnsw_file
from app.stores.disk import checksum, rename, sync
from app.stores.hnsw import HnswIndex

FORMAT = 1
"""Raised when a snapshot of this version could not be read by the version before."""
MANIFEST = "manifest.json"
PARTIAL_INDEX, PARTIAL_MANIFEST = "index.partial", "manifest.partial"


class Manifest(BaseModel):
    """What is known of a snapshot before its index is opened."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: int
    hnswlib: str
    fingerprint: str
    sequence: int = Field(ge=0)
    count: int = Field(ge=0)
    deleted: int = Field(ge=0)
    dimensions: int
    """Of the vectors in the graph."""
    m: int
    ef_construction: int
    file: str = Field(pattern=r"^[0-9a-f]{16}\.hnsw$")
    bytes: int
    sha256: str
    seal: str = ""
    """A checksum of all the rest: one flipped bit in `sequence` would lose documents without a word."""

    def sealed(self) -> Manifest:
        rest = self.model_copy(update={"seal": ""}).model_dump_json()
        return self.model_copy(update={"seal": sha256(rest.encode()).hexdigest()})


class _Format(BaseModel):
    """The one field that every version of the manifest has."""

    format: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why there is no index to be had from a folder."""

    reason: str


def write(index: HnswIndex, folder: Path, fingerprint: str) -> int:
    """Save the index; returns the last change it holds. Until the manifest is renamed, the snapshot before counts."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        manifest = _write_partial(index, folder, fingerprint)
        rename(folder / PARTIAL_INDEX, folder / manifest.file)
        rename(folder / PARTIAL_MANIFEST, folder / MANIFEST)
    except BaseException:
        _remove(folder, {PARTIAL_INDEX, PARTIAL_MANIFEST})
        raise
    _remove(folder, {path.name for path in folder.glob("*.hnsw")} - {manifest.file})
    return manifest.sequence


def load(folder: Path, fingerprint: str, empty: HnswIndex, settings: Settings) -> HnswIndex | Unusable:
    """The index, if everything about it is as it should be. hnswlib would take anything for an index."""
    try:
        found = check(folder, fingerprint, empty.dimensions, settings)
        empty.restore(folder / found.file, found.sequence)
        return empty
    except FileNotFoundError as error:
        return Unusable(f"there is no {Path(error.filename or folder).name}")
    except (OSError, ValueError, RuntimeError) as error:
        return Unusable(str(error))


def sweep(folder: Path) -> None:
    """Remove what a write that was cut short left beside a snapshot: it may be as large, and another never come."""
    left = {path.name for path in folder.glob("*.hnsw")} | {PARTIAL_INDEX, PARTIAL_MANIFEST}
    _remove(folder, left - {parse((folder / MANIFEST).read_bytes()).file})


def require_room(index: HnswIndex, folder: Path) -> None:
    """What can't fit is not begun: it would take the last room from the truth for as long as it takes to find out."""
    needed, free = index.file_size, disk_usage(folder).free
    if needed > free:
        raise OSError(f"{folder} has {free} bytes free, and a snapshot takes {needed}")


def _write_partial(index: HnswIndex, folder: Path, fingerprint: str) -> Manifest:
    """All that takes room comes before the first rename, so that a full disk is met with the old snapshot in place."""
    require_room(index, folder)
    sequence = index.save(folder / PARTIAL_INDEX)
    manifest = _describe(folder / PARTIAL_INDEX, index.graph_dimensions, sequence, fingerprint)
    (folder / PARTIAL_MANIFEST).write_text(manifest.model_dump_json(indent=1))
    sync(folder / PARTIAL_INDEX)
    sync(folder / PARTIAL_MANIFEST)
    return manifest


def _describe(path: Path, dimensions: int, sequence: int, fingerprint: str) -> Manifest:
    """Read back what was written: a file that can't be read is found out now and not at the next start."""
    file, digest = hnsw_file.read(path, dimensions), checksum(path)
    living = int(file.living.sum())
    return Manifest(
        format=FORMAT,
        hnswlib=version("hnswlib"),
        fingerprint=fingerprint,
        sequence=sequence,
        count=living,
        deleted=len(file.living) - living,
        dimensions=dimensions,
        m=file.m,
        ef_construction=file.ef_construction,
        file=f"{digest[:16]}.hnsw",
        bytes=path.stat().st_size,
        sha256=digest,
    ).sealed()


def check(folder: Path, fingerprint: str, dimensions: int, settings: Settings) -> Manifest:
    """The manifest of a snapshot that is whole and the right one; OSError or ValueError say what is wrong."""
    manifest = parse((folder / MANIFEST).read_bytes())
    _check_manifest(manifest, fingerprint, dimensions, settings)
    _check_file(folder / manifest.file, manifest)
    return manifest


def parse(text: bytes) -> Manifest:
    """A manifest as it is written; ValueError says what is wrong with it."""
    try:
        written = _Format.model_validate_json(text).format
        if written > FORMAT:
            raise ValueError(f"it was written by a later version (format {written}, this one reads {FORMAT})")
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{MANIFEST} is damaged: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    if manifest != manifest.sealed():
        raise ValueError(f"{MANIFEST} is damaged: its checksum differs")
    return manifest


def _check_manifest(manifest: Manifest, fingerprint: str, dimensions: int, settings: Settings) -> None:
    if manifest.fingerprint != fingerprint:
        raise ValueError("it was built for another collection or model: the fingerprint differs")
    wanted = settings.graph_dimensions(dimensions)
    if manifest.dimensions != wanted:
        raise ValueError(f"it holds vectors of {manifest.dimensions} dimensions, not {wanted}")
    if (manifest.m, manifest.ef_construction) != (settings.index_m, settings.index_ef_construction):
        raise ValueError("index_m or index_ef_construction were changed")


def _check_file(path: Path, manifest: Manifest) -> None:
    size = path.stat().st_size
    if size != manifest.bytes:
        raise ValueError(f"{path.name} has {size} bytes instead of {manifest.bytes}")
    if checksum(path) != manifest.sha256:
        raise ValueError(f"{path.name} is damaged: its checksum differs")


def _remove(folder: Path, names: set[str]) -> None:
    """Failing to is no failure of the snapshot: the next one tries again."""
    for name in names:
        with suppress(OSError):
            (folder / name).unlink()
