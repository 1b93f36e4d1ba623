"""What a check found, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from app.service.comparison import Difference
from app.service.indexes import Kind

State = Literal["running", "done", "failed", "stopped"]
Part = Literal["database", "collection", "documents", "vectors", "words", "terms"]

PARTS: dict[Kind, Part] = {"dense": "vectors", "lexical": "words", "sparse": "terms"}
"""What each index is of."""

NAMED = 5
"""Chunks of a finding that are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    part: Part
    problem: str
    collection: str | None = None
    chunks: tuple[int, ...] = ()
    """Some of those that it is about."""
    repaired: bool = False


@dataclass(slots=True)
class Report:
    """A check under way, or at its end."""

    state: State = "running"
    repairs: bool = False
    what: str = "the database file"
    """What is being looked at."""
    done: int = 0
    total: int = 0
    """Chunks to be compared in this part; 0 where there are none to be counted."""
    collections: int = 0
    chunks: int = 0
    """Compared so far, once for each index."""
    findings: list[Finding] = field(default_factory=list)
    error: str | None = None

    def give_up(self, error: Exception) -> None:
        """The database is so damaged that it can't be read to its end."""
        self.findings.append(Finding("database", f"the database file is damaged: {error}"))

    def begin(self, what: str, total: int = 0) -> None:
        self.what, self.done, self.total = what, 0, total

    def advance(self, chunks: int) -> None:
        self.done += chunks
        self.chunks += chunks


def of_index(collection: str, kind: Kind, difference: Difference, flaw: str | None) -> Iterator[Finding]:
    """What is wrong with an index, in memory or on disk."""
    part = PARTS[kind]
    for problem, chunks in difference.told(part):
        yield Finding(part, f"the index of {part} {problem}", collection, tuple(sorted(chunks)[:NAMED]))
    if flaw:
        yield Finding(part, f"the index of {part} can't be used as it is on disk: {flaw}", collection)
