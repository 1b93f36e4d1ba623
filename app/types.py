"""The nouns of the house and the seam that every index fills. Read this file first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.types import Blend, Ids, SparseVector
from models.words import Language

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


Format = Literal["plain", "markdown"]
"""How a document's text is written. Markdown is cut along its headings, tables, lists and blocks of code."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a caller gave."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    format: Format = "plain"
    pages: tuple[int, ...] = ()
    """Where each page begins in the text; nothing for a document without pages."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its document a chunk stands, for people."""

    page: int | None = None
    last_page: int | None = None
    heading: str = ""
    """The headings in force where it begins, outermost first."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A text as a reranker reads it."""

    tokenisation: bytes
    """Stands for the tokenizer: others make other ids."""
    ids: Ids


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document that fits the models."""

    start: int
    end: int
    text: str
    """What the models read: the span, with the title in front where the recipe says so, and its headings."""
    tokens: int
    place: Place = Place()
    reading: Reading | None = None
    """Kept with it, so that searches need not make it."""


STANDBY = "~standby"
"""Ends the name of a collection that follows another one, to take its place one day."""


@dataclass(slots=True, eq=False)
class Collection:
    """Documents that share one encoder, one recipe and one set of indexes. A switch gives an open one another name, and
    changes what it follows; all else of it never changes."""

    number: int
    name: str
    encoder: str
    reranker: str
    recipe: Recipe
    dimensions: int
    fingerprint: str
    language: Language
    """Whose stems and stop words the lexical index takes."""
    created_at: str
    sparse: str = ""
    """The encoder of its sparse vectors, if it has any."""
    sparse_fingerprint: str = ""
    late: str = ""
    """What stands for the vectors of its chunks' tokens, if they have any."""
    follows: int | None = None
    """The number of the collection whose standby it is."""
    overrules: str = ""
    """What the settings said when it took the default collection's place."""

    @property
    def is_standby(self) -> bool:
        return self.follows is not None


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
class Wording:
    """One step of the same log as a lexical index follows it."""

    sequence: int
    chunk: int
    text: str | None
    """None says that the chunk is gone."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """One step of the same log as an index of sparse vectors follows it."""

    sequence: int
    chunk: int
    vector: SparseVector | None
    """None says that the chunk is gone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the first stage proposes, best first."""

    chunks: ChunkIds
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.chunks)


Mode = Literal["hybrid", "dense", "lexical", "sparse"]
"""Which first stages are asked."""


Truncation = Literal["report", "refuse", "window"]
"""What to do where query and chunk are longer than the reranker reads at once."""


Fusing = Literal["scores", "ranks"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """How several rankings become one: each stage has its weight."""

    by: Fusing = "scores"
    """Scores count in standard deviations from the usual one of the query; ranks as 1 / (k + rank)."""
    dense: float = 0.6
    lexical: float = 0.4
    sparse: float = 0.4
    """In collections that have a sparse encoder."""
    k: int = 60

    def weight(self, stage: str) -> float:
        return {"dense": self.dense, "lexical": self.lexical, "sparse": self.sparse}[stage]


@dataclass(frozen=True, slots=True)
class Scale:
    """Final scores, and the probability that a document with such a score is relevant; neither ever falls."""

    scores: tuple[float, ...]
    relevance: tuple[float, ...]
    background: float = 0.0
    """How much of the query's own level, the mean of its ten best scores, is taken off a score first."""
    rival: float = 0.0
    """Likewise of the best rival's score: another document's for the first hit, the first hit's for all others."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What labels taught about a collection's searches in one mode. It holds for the models that it was made with."""

    mode: Mode
    encoder: str
    """By its fingerprint, as the reranker."""
    reranker: str
    reranked: Scale
    unreranked: Scale
    fusion: Fusion
    """Where scores of a hybrid search that is not reranked come from."""
    blend: Blend | None
    """In place of the reranker's own; None leaves that."""
    rerank: bool
    """Whether searches that do not say are reranked."""
    advice: str
    """Why they are not; empty where they are."""
    measured: Metadata
    """What was found on queries that nothing was fitted to."""
    created_at: str = ""
    sparse: str = ""
    """The sparse encoder's fingerprint; empty where there was none, or where an earlier version kept no record."""
    late: str = ""
    """What stands for the vectors of tokens; empty where there were none."""


@dataclass(frozen=True, slots=True)
class StageScore:
    """What one stage thought of a hit; ranks count from 1."""

    score: float
    rank: int | None
    """None where the stage was only asked about a hit that another one had found."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How many tokens there were to read, and how many of them were read."""

    total: int
    scored: int


@dataclass(frozen=True, slots=True)
class Context:
    """A hit with the text around it."""

    text: str
    start: int
    end: int


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
    tokens: Seen
    """Of the query and the chunk together, where they were reranked; otherwise of the chunk."""
    window: tuple[int, int] | None = None
    """Where in the document the part is that earned the score, if the chunk was read in parts."""
    place: Place = Place()
    context: Context | None = None
    merged: tuple[int, ...] = ()
    """Other hits, of lower score, whose contexts this one's has taken in."""
    highlight: tuple[int, int] | None = None
    """Where the best sentence begins and ends in the document."""
    matches: tuple[str, ...] | None = None
    """The query's words that the chunk has."""
    relevance: float | None = None
    """How probable it is that its document is relevant; None where labels never told."""


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

    def search_graph(
        self, vector: Vector, k: int, allowed: ChunkIds | None = None, ef: int | None = None
    ) -> Candidates | None:
        """As search does, perhaps with another effort; None where that compares with every one."""

    @property
    def ef(self) -> int:
        """The effort of a search by graph."""

    def tune(self, ef: int) -> None: ...

    @property
    def state(self) -> object:
        """Another one after each change that a search could see."""

    def sample(self, most: int) -> NDArray[np.float32]:
        """Vectors of living chunks, evenly out of all of them."""

    def save(self, path: Path) -> int:
        """Write all of it to a new file, with searches going on; returns the last change that it holds."""

    @property
    def nbytes(self) -> int: ...


class LexicalIndex(Protocol):
    """A view of the truth that finds the chunks with the weightiest words of a query. Safe to call from many threads.
    Scores are shares: of the most that any text could score for the query, 0 to 1."""

    @property
    def sequence(self) -> int:
        """The last change that it has seen."""

    def __len__(self) -> int:
        """Living chunks."""

    def apply(self, changes: Sequence[Wording]) -> None:
        """Follow the log: all of them or, to a search, none of them. A change already seen is passed over."""

    def search(self, query: str, k: int, allowed: ChunkIds | None = None) -> Candidates:
        """The k best that have any word of the query."""

    def shares(self, query: str, chunks: ChunkIds) -> NDArray[np.float32]:
        """What search would say of these chunks, in their order."""

    def matches(self, query: str, text: str) -> list[str]:
        """The words of the query that a text has."""


class SparseIndex(Protocol):
    """A view of the truth that finds the chunks that share the weightiest terms with a query. Safe to call from many
    threads.

    Scores are sums of products of weights: above 0, without an upper end.
    """

    @property
    def sequence(self) -> int:
        """The last change that it has seen."""

    def __len__(self) -> int:
        """Living chunks."""

    def apply(self, changes: Sequence[Expansion]) -> None:
        """Follow the log: all of them or, to a search, none of them. A change already seen is passed over."""

    def search(self, vector: SparseVector, k: int, allowed: ChunkIds | None = None) -> Candidates:
        """The k best that have any term of the query."""

    def scores(self, vector: SparseVector, chunks: ChunkIds) -> NDArray[np.float32]:
        """What search would say of these chunks, in their order."""

    @property
    def nbytes(self) -> int: ...
