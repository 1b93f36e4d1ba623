"""Passages from JSON lines as BEIR lays them out, and a sample of them that only ever grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from typing import Any

from models.synthesis.types import Unusable
from models.training.lines import files_of, read_lines
from models.training.pairs import Passage

CORPUS = ("corpus.jsonl", "corpus.jsonl.gz")


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of a corpus and the name that its passages carry as their source."""

    files: tuple[Path, ...]
    source: str
    in_table: bool = False
    """Whether its ids will stand in one, which loses blanks."""

    def __iter__(self) -> Iterator[Passage]:
        """Every passage with a text, in the order of the files."""
        seen = set[str]()
        for file in self.files:
            for place, fields in read_lines(file):
                passage = _passage(place, fields, self.source)
                if passage.id in seen:
                    raise Unusable(f"{place}: the id {passage.id!r} is taken by an earlier passage: give each its own.")
                if self.in_table and passage.id != " ".join(passage.id.split()):
                    raise Unusable(f"{place}: the id {passage.id!r} holds blanks that a table loses: give it another.")
                seen.add(passage.id)
                if passage.text.strip():
                    yield passage


def open_corpus(path: Path, source: str, *, in_table: bool = False) -> Corpus:
    """A file, or a folder of them; of a BEIR folder its corpus alone, since queries are no passages."""
    found = files_of(path)
    corpus = [file for file in found if file.name in CORPUS]
    return Corpus(tuple(corpus if path.is_dir() and corpus else found), source, in_table)


def select(corpus: Corpus, count: int | None, seed: int) -> list[Passage]:
    """So many passages, or all, in a random order that the seed fixes; of equal texts the first.

    A larger count begins with the very passages of a smaller one, so that a sample can be extended.
    """
    if count is None:
        return sorted(distinct(corpus), key=lambda passage: draw(passage, seed))
    return nsmallest(count, distinct(corpus), key=lambda passage: draw(passage, seed))


def distinct(corpus: Corpus) -> Iterator[Passage]:
    """Passages that say something new; of equal ones the first."""
    seen = set[str]()
    for passage in corpus:
        if (words := wording(passage)) not in seen:
            seen.add(words)
            yield passage


def fingerprint(passage: Passage) -> str:
    """What tells this passage, in this wording, from all others."""
    return _hash(passage.id, passage.title, passage.text)


def wording(passage: Passage) -> str:
    """What passages of the same text share, whatever stands above it."""
    return _hash(passage.text)


def draw(passage: Passage, seed: object) -> float:
    """A number from 0 to 1 that only the passage and the seed decide."""
    return _number(seed, fingerprint(passage))


def is_held_out(passage: Passage, share: float, seed: int) -> bool:
    """Whether a passage is for evaluation. Its text alone decides, so that it never changes sides."""
    return _number(f"held out {seed}", wording(passage)) < share


def _number(seed: object, of: str) -> float:
    return int(_hash(str(seed), of), 16) / 2**128


def _hash(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _passage(place: str, fields: dict[str, Any], source: str) -> Passage:
    name, title, text = fields.get("_id", fields.get("id")), fields.get("title") or "", fields.get("text")
    if type(name) not in (str, int) or name == "":
        raise Unusable(f"{place} has no id: a passage needs `_id` or `id`.")
    if not isinstance(text, str) or not isinstance(title, str):
        raise Unusable(
            f"{place} has no text, or a title that is no text: a passage needs `text`, and may have `title`."
        )
    return Passage(source, str(name), title, text)
