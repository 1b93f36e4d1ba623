"""A lexical index on disk: tantivy keeps its files whole, and we keep how far they follow the log.

The manifest may lag behind the files, since a change that is seen twice changes nothing, but never run ahead of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.stores.disk import write_whole
from app.stores.lexical import TantivyIndex
from app.stores.snapshot import Unusable
from models.words import RULES, Language

FORMAT = 1
MANIFEST = "winnow.json"
MAGIC = 1337
"""Ends the footer with a checksum that tantivy writes behind each file, and does not look at when it opens one."""

SEGMENTS = "meta.json"
"""Names the files that count; a commit that was cut short leaves others. What is wrong in it shows in missing files or
in the number of chunks."""


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


def save(index: TantivyIndex, folder: Path, language: Language) -> int:
    """Note how far the index has come; returns the last change that will be remembered."""
    sequence = index.sequence
    manifest = Manifest(format=FORMAT, rules=RULES, language=language, sequence=sequence).sealed()
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1))
    return sequence


def load(folder: Path, language: Language) -> TantivyIndex | Unusable:
    """The index, if it is whole and the right one."""
    try:
        manifest = _manifest(folder)
        if (manifest.rules, manifest.language) != (RULES, language):
            raise ValueError("it was made by other rules, or for another language")
        for file in _files(folder):
            _check(file)
        return TantivyIndex(language, folder, manifest.sequence)
    except FileNotFoundError as error:
        return Unusable(f"there is no {Path(error.filename or folder).name}")
    except (OSError, ValueError) as error:
        return Unusable(str(error))


def _manifest(folder: Path) -> Manifest:
    text = (folder / MANIFEST).read_bytes()
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{MANIFEST} is damaged, or of a later version") from error
    if manifest != manifest.sealed() or manifest.format != FORMAT:
        raise ValueError(f"{MANIFEST} is damaged, or of a later version")
    return manifest


def _files(folder: Path) -> Iterator[Path]:
    """Those of the segments that the last commit left."""
    try:
        for segment in json.loads((folder / SEGMENTS).read_bytes())["segments"]:
            name, deletes = str(segment["segment_id"]).replace("-", ""), segment["deletes"]
            marks = f"{name}.{deletes['opstamp']}.del" if deletes else ""
            yield from (file for file in folder.glob(f"{name}.*") if file.suffix != ".del" or file.name == marks)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{SEGMENTS} is damaged") from error


def _check(file: Path) -> None:
    content = memoryview(file.read_bytes())
    length, magic = int.from_bytes(content[-8:-4], "little"), int.from_bytes(content[-4:], "little")
    end = len(content) - 8 - length
    try:
        whole = end >= 0 and magic == MAGIC and crc32(content[:end]) == json.loads(bytes(content[end:-8]))["crc"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{file.name} is damaged: its checksum differs")
