"""Embed: texts to vectors, through the batcher that all callers of the encoder share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from app.batcher import Batcher, Lane
from app.telemetry import Lap, Metrics
from app.types import Vector
from models.types import BiEncoder, Role, Tokens, Vectors


@dataclass(frozen=True, slots=True)
class Embedder:
    """An encoder that is open, with its batcher."""

    encoder: BiEncoder
    batcher: Batcher
    metrics: Metrics

    async def query(self, text: str, threads: Executor, lap: Lap) -> tuple[Vector, Tokens]:
        """The query's vector, and what of the query it was made from. Refused when the queue is full."""
        (tokens,) = await self._tokenize([text], "query", threads)
        with self.batcher.admit(len(tokens)):
            vectors = await self._encode([tokens], "search", lap)
        return vectors[0], tokens

    async def documents(self, texts: Sequence[str], threads: Executor, lap: Lap) -> Vectors:
        return await self._encode(await self._tokenize(texts, "document", threads), "ingest", lap)

    async def aside(self, texts: Sequence[str], threads: Executor, lap: Lap) -> Vectors:
        """Vectors of texts that a search needs at once. Refused when the queue is full."""
        tokens = await self._tokenize(texts, "document", threads)
        with self.batcher.admit(sum(len(each) for each in tokens)):
            return await self._encode(tokens, "search", lap)

    async def _tokenize(self, texts: Sequence[str], role: Role, threads: Executor) -> list[Tokens]:
        tokens = await asyncio.get_running_loop().run_in_executor(threads, self.encoder.tokenize, texts, role)
        self.metrics.truncations.labels("embed").inc(sum(each.truncated for each in tokens))
        return tokens

    async def _encode(self, tokens: Sequence[Tokens], lane: Lane, lap: Lap) -> Vectors:
        ran = await self.batcher.run(tokens, lane)
        lap.queued += ran.queued
        return ran.values
