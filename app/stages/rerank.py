"""Rerank: candidates to their final order, by a cross-encoder and what its training made of the first stage's score."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from app.batcher import Batcher, Permit
from app.telemetry import Lap, Metrics
from models.types import Blend, Reranker, Scores, Tokens

SMOOTHING = 0.3
"""Weight of the newest search in the running mean of tokens per pair."""


class Ranker:
    """A reranker that is open, with its batcher."""

    def __init__(self, reranker: Reranker, batcher: Batcher, metrics: Metrics, pair_tokens: float) -> None:
        self.reranker = reranker
        self.batcher = batcher
        self._metrics = metrics
        self._pair_tokens = pair_tokens

    def admit(self, pairs: int) -> Permit:
        """Room for a whole request before any of its work is done, by what pairs have cost so far."""
        return self.batcher.admit(round(pairs * self._pair_tokens))

    async def score(self, query: str, texts: Sequence[str], threads: Executor, lap: Lap) -> tuple[Scores, list[Tokens]]:
        """The cross-encoder's own scores, in the order of the texts, and what it saw of each."""
        loop = asyncio.get_running_loop()
        pairs = await loop.run_in_executor(threads, self.reranker.tokenize, query, texts)
        self._metrics.truncations.labels("rerank").inc(sum(pair.truncated for pair in pairs))
        ran = await self.batcher.run(pairs, "search")
        lap.queued += ran.queued
        return ran.values, pairs

    def learn(self, pairs: Sequence[Tokens]) -> None:
        """What a search's pairs cost, for those to come."""
        if pairs:
            mean = sum(len(pair) for pair in pairs) / len(pairs)
            self._pair_tokens += SMOOTHING * (mean - self._pair_tokens)


def blended(blend: Blend, reranked: Scores, dense: Scores) -> Scores:
    """The final score: the reranker's, and the first stage's as far as training found that it adds to it."""
    return blend.rerank * reranked + blend.dense * dense
