"""An index is held against the truth: which chunks it lacks, has too many of, has twice, or has wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import apsw
import numpy as np

from app.stores import log
from app.stores.holdings import Advance, Holding
from app.types import ChunkIds

NO_CHUNKS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """Chunks, by what is wrong with them in an index."""

    missing: frozenset[int] = NO_CHUNKS
    strays: frozenset[int] = NO_CHUNKS
    doubled: frozenset[int] = NO_CHUNKS
    wrong: frozenset[int] = NO_CHUNKS

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def __and__(self, other: Difference) -> Difference:
        """What is wrong both times: all else was on its way."""
        return Difference(*(getattr(self, each.name) & getattr(other, each.name) for each in fields(self)))

    def __or__(self, other: Difference) -> Difference:
        return Difference(*(getattr(self, each.name) | getattr(other, each.name) for each in fields(self)))

    def told(self, content: str) -> Iterator[tuple[str, frozenset[int]]]:
        """What is wrong in words, each with its chunks."""
        told = {
            "missing": "lacks searchable chunks",
            "strays": "holds chunks that can't be found any more",
            "doubled": "holds chunks more than once",
            "wrong": f"holds chunks with other {content} than the database's",
        }
        for name, what in told.items():
            if chunks := getattr(self, name):
                yield f"{what}: {len(chunks):,}", chunks


def compare(
    db: apsw.Connection,
    collection: int,
    holding: Holding,
    advance: Advance,
    again: Difference | None,
    seen: int,
    ahead: Sequence[int] = (),
) -> Difference:
    """Hold all of it against the truth; for a second look only what was wrong is read.

    What changed since the last change that it has seen is left out, and what was added ahead of being published.
    """
    held, counts = np.unique(holding.chunks, return_counts=True)
    living = np.unique(log.living_chunks(db, collection))
    moving = np.union1d(log.changed(db, collection, seen), np.array(ahead, np.int64))
    common = np.intersect1d(held, living)
    if again is not None:
        common = np.intersect1d(common, np.fromiter(again.wrong, np.int64, len(again.wrong)))
    return Difference(
        missing=_set(np.setdiff1d(np.setdiff1d(living, held), moving)),
        strays=_strays(db, np.setdiff1d(np.setdiff1d(held, living), moving)),
        doubled=_set(held[counts > 1]),
        wrong=frozenset(holding.wrong(db, common, advance)),
    )


def _strays(db: apsw.Connection, chunks: ChunkIds) -> frozenset[int]:
    """Without those that were added ahead of being published."""
    _, waiting = log.unpublished(db, chunks.tolist())
    return _set(chunks) - frozenset(waiting)


def _set(chunks: ChunkIds) -> frozenset[int]:
    return frozenset(chunks.tolist())
