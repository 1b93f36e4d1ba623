"""The nouns of the house and the seam that every index fills. Read this file first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Metadata = dict[str, Any]
"""What a caller says about a document: JSON values, searchable by filters."""

Vector = NDArray[np.float32]
"""One text's vector, of unit length."""

ChunkIds = NDArray[np.int64]
"""Chunks are numbered once and for all: a number is never given to a second chunk."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How documents become chunks. Part of a collection's fingerprint, since it shapes every vector."""

    chunk_tokens: int = 256
    overlap_tokens: int = 32
    title: Literal["first", "every", "never"] = "first"
    """Which chunks are embedded and reranked with the document's title in front."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a caller gave."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document that fits the models."""

    start: int
    end: int
    text: str
    """What the models read: the span, with the title in front where the recipe says so."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents that share one encoder, one recipe and one set of indexes."""

    number: int
    name: str
    encoder: str
    reranker: str
    recipe: Recipe
    dimensions: int
    fingerprint: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Job:
    """An ingest that may still be under way."""

    id: str
    collection: str
    state: Literal["running", "done", "failed"]
    documents: int
    searchable: int
    pending: int
    failed: int
    error: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the log that indexes follow: a chunk that became searchable, or one that is gone."""

    sequence: int
    chunk: int
    vector: Vector | None
    """None says that the chunk is gone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the first stage proposes, best first."""

    chunks: ChunkIds
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.chunks)


@dataclass(frozen=True, slots=True)
class StageScore:
    """What one stage thought of a hit; ranks count from 1."""

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers the query."""

    chunk: int
    document: str
    title: str
    text: str
    start: int
    end: int
    metadata: Metadata
    score: float
    stages: dict[str, StageScore]


class VectorIndex(Protocol):
    """A view of the truth that finds the nearest vectors. Safe to call from many threads.

    It follows the log of changes and knows how far it has come, so it can always be replayed or rebuilt.
    """

    @property
    def dimensions(self) -> int: ...

    @property
    def sequence(self) -> int:
        """The last change that it has seen."""

    @property
    def deleted(self) -> int:
        """Chunks that are gone but still take room until the next compaction."""

    def __len__(self) -> int:
        """Living chunks."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: all of them or, to a search, none of them. A change already seen is passed over."""

    def search(self, vector: Vector, k: int, allowed: ChunkIds | None = None) -> Candidates:
        """The k nearest, by graph or exactly, whichever is faster for so many allowed chunks."""

    def search_exact(self, vector: Vector, k: int, allowed: ChunkIds | None = None) -> Candidates:
        """The k nearest by comparing with every one: the reference."""

    def save(self, path: Path) -> int:
        """Write all of it to a new file, with searches going on; returns the last change that it holds."""

    @property
    def nbytes(self) -> int: ...
