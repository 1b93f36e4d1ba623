"""Embed: texts to vectors, through the batcher that all callers of the encoder share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.batcher import Batcher
from app.sharer import Sharer
from app.telemetry import Lap, Metrics
from app.types import Vector
from models.types import BiEncoder, Role, TokenQuery, Tokens, TokenVectors, Vectors


@dataclass(frozen=True, slots=True, eq=False)
class Sought:
    """A query as its encoder has it."""

    vector: Vector
    seen: Tokens
    """What of the query it was made from."""
    tokens: TokenQuery | None
    """None where the encoder does not compare tokens."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """An encoder that is open, with what its callers share."""

    encoder: BiEncoder
    asking: Sharer
    """For queries, which are short and wait for no long batch; with their tokens, where the encoder compares them."""
    sharer: Sharer
    taking: Batcher
    """For chunks with their tokens, where the encoder compares them."""
    metrics: Metrics

    @property
    def batcher(self) -> Batcher:
        return self.sharer.batcher

    async def query(self, text: str, threads: Executor, lap: Lap, *, fresh: bool = False) -> Sought:
        """Refused when the queue is full."""
        (seen,) = await self._tokenize([text], "query", threads)
        (found,) = await _now(self.asking, [seen], lap, fresh=fresh)
        if self.encoder.late is None:
            return Sought(found, seen, None)
        weights = self.encoder.late.weights(seen.ids[self.encoder.inside(seen)])
        return Sought(found.vector, seen, TokenQuery(found.tokens, weights))

    async def documents(self, texts: Sequence[str], threads: Executor, lap: Lap) -> Vectors:
        ran = await self.batcher.run(await self._tokenize(texts, "document", threads), "ingest")
        lap.queued += ran.queued
        return ran.values

    async def wholes(self, texts: Sequence[str], threads: Executor, lap: Lap) -> tuple[Vectors, list[TokenVectors]]:
        """The same with vectors of their tokens."""
        ran = await self.taking.run(await self._tokenize(texts, "document", threads), "ingest")
        lap.queued += ran.queued
        return np.array([each.vector for each in ran.values], np.float32), [each.tokens for each in ran.values]

    async def aside(self, texts: Sequence[str], threads: Executor, lap: Lap, *, fresh: bool = False) -> Vectors:
        """Vectors of texts that are needed at once, as a search's are. Refused when the queue is full."""
        return await _now(self.sharer, await self._tokenize(texts, "document", threads), lap, fresh=fresh)

    async def _tokenize(self, texts: Sequence[str], role: Role, threads: Executor) -> list[Tokens]:
        tokens = await asyncio.get_running_loop().run_in_executor(threads, self.encoder.tokenize, texts, role)
        self.metrics.truncations.labels("embed").inc(sum(each.truncated for each in tokens))
        return tokens


async def _now(sharer: Sharer, tokens: Sequence[Tokens], lap: Lap, *, fresh: bool) -> NDArray[Any]:
    with sharer.batcher.admit(sum(len(each) for each in tokens)):
        ran = await sharer.run(tokens, lap, fresh=fresh)
    lap.queued += ran.queued
    return ran.values
