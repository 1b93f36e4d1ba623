"""Weigh: texts to weighted terms, through the batcher that all callers of the sparse encoder share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.batcher import Batcher
from app.caller import caller
from app.sharer import Sharer
from app.telemetry import Lap, Metrics
from models.types import Role, SparseEncoder, SparseVector, Tokens

Packed = NDArray[np.float32]
"""A row for each text: its terms, which are exact as floats below 2**24, and beneath them their weights, then zeros."""


@dataclass(frozen=True, slots=True)
class Weigher:
    """A sparse encoder that is open, with a batcher for each side: it may read them by different parts."""

    encoder: SparseEncoder
    asking: Sharer
    taking: Batcher
    metrics: Metrics

    async def query(
        self, text: str, threads: Executor, lap: Lap, *, fresh: bool = False
    ) -> tuple[SparseVector, Tokens]:
        """The query's terms, and what of the query they were made from. Refused when the queue is full."""
        (tokens,) = await self._tokenize([text], "query", threads)
        if not self.encoder.reads_queries:
            return self.encoder.encode([tokens], "query")[0], tokens
        with self.asking.batcher.admit(len(tokens)):
            ran = await self.asking.run([tokens], lap, fresh=fresh)
        lap.queued += ran.queued
        return unpacked(ran.values)[0], tokens

    async def documents(self, texts: Sequence[str], threads: Executor, lap: Lap) -> list[SparseVector]:
        ran = await self.taking.run(await self._tokenize(texts, "document", threads), "ingest")
        lap.queued += ran.queued
        return unpacked(ran.values)

    async def aside(self, texts: Sequence[str], threads: Executor, lap: Lap) -> list[SparseVector]:
        """The same for texts that are needed at once. Refused when the queue is full."""
        tokens = await self._tokenize(texts, "document", threads)
        with self.taking.admit(amount := sum(map(len, tokens))):
            caller().meter.count(amount)
            ran = await self.taking.run(tokens, "search")
        lap.queued += ran.queued
        return unpacked(ran.values)

    async def _tokenize(self, texts: Sequence[str], role: Role, threads: Executor) -> list[Tokens]:
        tokens = await asyncio.get_running_loop().run_in_executor(threads, self.encoder.tokenize, texts, role)
        self.metrics.truncations.labels("weigh").inc(sum(each.truncated for each in tokens))
        return tokens


def packed(vectors: Sequence[SparseVector], most: int) -> Packed:
    """Vectors of any length as a batcher takes them: all of one."""
    rows = np.zeros((len(vectors), 2, most), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        row[:, : len(vector)] = vector.terms, vector.weights
    return rows


def unpacked(rows: Packed) -> list[SparseVector]:
    lengths = np.count_nonzero(rows[:, 1], axis=1) if len(rows) else []
    return [
        SparseVector(terms[:length].astype(np.int32), weights[:length].copy())
        for (terms, weights), length in zip(rows, lengths, strict=True)
    ]
