"""Pairs to the cross-encoder's scores, each computed once for good, and what a query's pairs take."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from app.quality.cache import key
from app.quality.workbench import Workbench, batches, numbers
from models.types import Reranker, Scores

PAIR = struct.Struct("<fI?")
"""Score, tokens that the model read, and whether that was not all of the pair."""

SECONDS = struct.Struct("<d")


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """What became of one query's pairs, in the order of the texts."""

    scores: Scores
    tokens: NDArray[np.int64]
    truncated: int


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one query's pairs took, scored together as a service would."""

    seconds: float
    tokens: int
    stored: bool
    """Taken in an earlier run."""


class Scorer:
    """A reranker with a memory."""

    def __init__(self, reranker: Reranker, bench: Workbench) -> None:
        self._reranker = reranker
        self._bench = bench
        self._numbers = numbers(reranker)

    def score(self, query: str, texts: Sequence[str]) -> Pairs:
        keys = self._keys(query, texts)
        found = self._bench.cache.get(keys)
        missing = {each: text for each, text in zip(keys, texts, strict=True) if each not in found}
        found |= self._compute(query, missing)
        rows = [PAIR.unpack(found[each]) for each in keys]
        return Pairs(
            np.array([score for score, _, _ in rows], np.float32),
            np.array([tokens for _, tokens, _ in rows], np.int64),
            sum(truncated for _, _, truncated in rows),
        )

    def time(self, query: str, texts: Sequence[str], *, again: bool) -> Timing | None:
        """All of them at once by the clock. When some were scored before, and when was not stored, only if told to."""
        keys = self._keys(query, texts)
        stamp = key("seconds", self._bench.options.threads, *keys)
        found = self._bench.cache.get([stamp, *keys])
        stored = len(found) == len({stamp, *keys})
        if not stored:
            if found and not again:
                return None
            began = perf_counter()
            found = self._compute(query, dict(zip(keys, texts, strict=True)))
            found[stamp] = SECONDS.pack(perf_counter() - began)
            self._bench.cache.put({stamp: found[stamp]})
        tokens = sum(PAIR.unpack(found[each])[1] for each in set(keys))
        return Timing(SECONDS.unpack(found[stamp])[0], tokens, stored)

    def _keys(self, query: str, texts: Sequence[str]) -> list[bytes]:
        return [key("pair", *self._numbers, query, text) for text in texts]

    def _compute(self, query: str, texts: dict[bytes, str]) -> dict[bytes, bytes]:
        if not texts:
            return {}
        keys, pairs = list(texts), self._reranker.tokenize(query, list(texts.values()))
        made: dict[bytes, bytes] = {}
        for batch in batches([len(pair) for pair in pairs], self._bench.batch_tokens(self._reranker.device)):
            scores = self._reranker.score([pairs[place] for place in batch])
            for place, score in zip(batch, scores, strict=True):
                made[keys[place]] = PAIR.pack(score, len(pairs[place]), pairs[place].truncated)
        self._bench.cache.put(made)
        return made
