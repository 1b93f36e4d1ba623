"""What a search tells to whoever watches over quality, and how that one may look at it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal, Protocol

from app.telemetry import Lap
from app.types import Hit, Mode, Vector

DEPTHS = (10, 50, 100)
"""The k of recall@k, as far as a search asks for so many."""

BEST = 10
"""How many answers count as the best ones."""


class Traffic:
    """Whether anybody searches, and since when nobody has."""

    def __init__(self) -> None:
        self._under_way = 0
        self._ended = monotonic()

    @contextmanager
    def passing(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._ended = monotonic()

    @property
    def quiet(self) -> float:
        """Seconds without a search; none while there is one."""
        return 0.0 if self._under_way else monotonic() - self._ended


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A search that was answered."""

    collection: str
    number: int
    """The collection's: another one may have its name by now."""
    mode: Mode
    hits: Sequence[Hit]
    """All candidates, in the order of the answer."""
    shown: int
    """How many of them are good enough for what was asked."""
    reranked: int
    late: bool
    """A deadline ended the reranking."""
    query_tokens: int | None
    """In the encoder's tokens; None where it was not asked."""
    vector: Vector | None
    asked: object
    """What asks it again: the concern of searching alone."""


class Witness(Protocol):
    """Is told of every search, and may not keep it waiting."""

    def saw(self, sighting: Sighting) -> None: ...


@dataclass(frozen=True, slots=True)
class Beside:
    """A search by graph beside the exact one, on the same state of the index."""

    outcome: Literal["compared", "exact", "changed", "gone"]
    """exact: no graph was asked, there is nothing to compare; changed: the index did so meanwhile."""
    found: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """By effort: of the k nearest the share that was found."""


class Dive(Protocol):
    """A search with more candidates, which are read a few at a time."""

    @property
    def candidates(self) -> int:
        """How many the search had."""

    @property
    def depth(self) -> int:
        """How many there are."""

    @property
    def left(self) -> int:
        """How many of them are not read yet."""

    async def read(self, amount: int, lap: Lap) -> None: ...

    def places(self) -> tuple[int, ...]:
        """Where in the first stage's order the best answers stood, counted from 1."""

    def missed(self) -> int:
        """How many of the best answers were not among the search's own candidates."""


class SecondLook(Protocol):
    """Looks at what was searched for once more."""

    def open(self) -> Mapping[str, int]:
        """Names and numbers of the collections that are open."""

    async def beside(self, asked: object, efforts: Sequence[int]) -> Beside:
        """With each of these efforts of the graph."""

    async def dive(self, asked: object, times: int) -> Dive | None:
        """With so many times the candidates; None where nothing was reranked, or the collection is gone."""

    async def centre(self, collection: str) -> Vector | None:
        """The mean of the collection's vectors; None where there are none."""

    def takes(self, collection: str, candidates: int) -> float:
        """Seconds to rerank so many, by the measured rate."""

    def effort(self, collection: str) -> int | None:
        """Of searches by graph: a collection that was switched keeps what it was tuned to. None where it is closed."""

    def tune(self, collection: str, ef: int) -> None:
        """Give searches by graph another effort, where the collection is still open."""
