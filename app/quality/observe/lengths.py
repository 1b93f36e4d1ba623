"""Lengths: how much of queries and candidates the reranker sees."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from app.quality.observe.types import Figure, Lengths, figure
from app.quality.statistics import mean_of, share
from app.types import Seen
from app.witness import Sighting

WINDOW = 1000


@dataclass(frozen=True, slots=True)
class Length:
    """Of one search."""

    query: int
    seen: Seen | None
    """Of all pairs together; None where there are none."""


class LengthWatch:
    """Of one collection."""

    def __init__(self, reserve: int) -> None:
        self._reserve = reserve
        self._lengths: deque[Length] = deque(maxlen=WINDOW)

    def add(self, sighting: Sighting) -> None:
        if sighting.query_tokens is not None:
            self._lengths.append(Length(sighting.query_tokens, seen(sighting)))

    def is_long(self, sighting: Sighting) -> bool:
        return sighting.query_tokens is not None and sighting.query_tokens > self._reserve

    @property
    def scored_share(self) -> Figure | None:
        """In the mean of searches, so that none counts more for its length."""
        shares = [each.seen.scored / each.seen.total for each in self._lengths if each.seen]
        return figure(mean_of(shares), len(shares)) if shares else None

    def report(self) -> Lengths | None:
        queries = [each.query for each in self._lengths]
        long = share(sum(each > self._reserve for each in queries), len(queries))
        if long is None:
            return None
        pairs = [each.seen for each in self._lengths if each.seen]
        cut = share(sum(each.scored < each.total for each in pairs), len(pairs))
        return Lengths(
            scored_share=self.scored_share,
            cut=figure(cut, len(pairs)) if cut else None,
            query_median=float(np.median(queries)),
            query_longest=max(queries),
            reserve=self._reserve,
            long=figure(long, len(queries)),
        )


def seen(sighting: Sighting) -> Seen | None:
    """Tokens of all pairs that the reranker was shown."""
    pairs = [hit.tokens for hit in sighting.hits if "rerank" in hit.stages]
    if not pairs:
        return None
    return Seen(sum(each.total for each in pairs), sum(each.scored for each in pairs))
