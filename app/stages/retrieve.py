"""Retrieve: a query's vector to the chunks nearest to it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from app.types import Candidates, ChunkIds, Vector, VectorIndex


async def retrieve(
    index: VectorIndex, vector: Vector, k: int, allowed: ChunkIds | None, threads: Executor, *, exact: bool
) -> Candidates:
    search = index.search_exact if exact else index.search
    return await asyncio.get_running_loop().run_in_executor(threads, search, vector, k, allowed)
