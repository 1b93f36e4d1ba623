"""A lexical index on disk: tantivy keeps its files whole, and we keep how far they follow the log.

The manifest may lag behind the files, since a change that is seen twice changes nothing, but never run ahead of them.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.stores.disk import rename, write_whole
from app.stores.lexical import TantivyIndex
from app.stores.lexical_files import SEGMENTS, check, committed
from app.stores.snapshot import Unusable
from models.words import RULES, Language

FORMAT = 1
MANIFEST = "winnow.json"


class Manifest(BaseModel):
    """How far the index has come, and what it was made by."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: int
    rules: int
    language: str
    sequence: int = Field(ge=0)
    seal: str = ""

    def sealed(self) -> Manifest:
        rest = self.model_copy(update={"seal": ""}).model_dump_json()
        return self.model_copy(update={"seal": sha256(rest.encode()).hexdigest()})


def create(folder: Path, language: Language) -> TantivyIndex:
    """An empty index in the place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    return TantivyIndex(language, folder)


def move(source: Path, folder: Path, language: Language, sequence: int) -> TantivyIndex:
    """An index that nobody writes to, in the place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    rename(source, folder)
    return TantivyIndex(language, folder, sequence)


def save(index: TantivyIndex, folder: Path, language: Language) -> int:
    """Note how far the index has come; returns the last change that will be remembered."""
    sequence = index.sequence
    manifest = Manifest(format=FORMAT, rules=RULES, language=language, sequence=sequence).sealed()
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1))
    return sequence


def load(folder: Path, language: Language) -> TantivyIndex | Unusable:
    """The index, if it is whole and the right one."""
    try:
        return TantivyIndex(language, folder, checked(folder, language).sequence)
    except FileNotFoundError as error:
        return Unusable(f"there is no {Path(error.filename or folder).name}")
    except (OSError, ValueError) as error:
        return Unusable(str(error))


def checked(folder: Path, language: Language) -> Manifest:
    """The manifest of an index that is whole and the right one; OSError or ValueError say what is wrong."""
    manifest = parse((folder / MANIFEST).read_bytes())
    if (manifest.rules, manifest.language) != (RULES, language):
        raise ValueError("it was made by other rules, or for another language")
    for file in committed(folder, (folder / SEGMENTS).read_bytes()):
        check(file)
    return manifest


def parse(text: bytes) -> Manifest:
    """A manifest as it is written; ValueError says what is wrong with it."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{MANIFEST} is damaged, or of a later version") from error
    if manifest != manifest.sealed() or manifest.format != FORMAT:
        raise ValueError(f"{MANIFEST} is damaged, or of a later version")
    return manifest
