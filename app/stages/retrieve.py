"""Retrieve: a query to the chunks nearest to its vector, to those with its words, and to those with terms that it could
have had; all are asked at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from app.types import Candidates, ChunkIds, LexicalIndex, SparseIndex, Vector, VectorIndex
from models.types import SparseVector


async def retrieve_dense(
    index: VectorIndex, vector: Vector, k: int, allowed: ChunkIds | None, threads: Executor, *, exact: bool
) -> Candidates:
    search = index.search_exact if exact else index.search
    return await asyncio.get_running_loop().run_in_executor(threads, search, vector, k, allowed)


async def retrieve_lexical(
    index: LexicalIndex, query: str, k: int, allowed: ChunkIds | None, threads: Executor
) -> Candidates:
    return await asyncio.get_running_loop().run_in_executor(threads, index.search, query, k, allowed)


async def retrieve_sparse(
    index: SparseIndex, terms: SparseVector, k: int, allowed: ChunkIds | None, threads: Executor
) -> Candidates:
    return await asyncio.get_running_loop().run_in_executor(threads, index.search, terms, k, allowed)
