"""Why an answer is as it is: the words that matched, and how much a filter left to search."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from app.service.shelf import Shelf
from app.service.sieve import Sieve
from app.stores.filters import And, Filter, allowed_chunks
from app.stores.sqlite import Database
from app.types import Hit


@dataclass(frozen=True, slots=True)
class Explanation:
    """Chunks that were searched, and what was left of them."""

    chunks: int
    allowed: int
    conditions: tuple[int, ...]
    """How many chunks each of the filter's conditions allows alone, in their order."""


class Explainer:
    """Looks again at what a search went through."""

    def __init__(self, database: Database, sieve: Sieve, threads: Executor) -> None:
        self._database = database
        self._sieve = sieve
        self._threads = threads

    async def explain(
        self, shelf: Shelf, query: str, condition: Filter | None, hits: Sequence[Hit]
    ) -> tuple[list[Hit], Explanation]:
        held = len(shelf.indexes.dense.index)
        found = Explanation(held, held, ())
        if condition is not None:
            found = await self._left(shelf.collection.number, condition, held)
        words = shelf.indexes.lexical.index

        def matched() -> list[Hit]:
            return [replace(hit, matches=tuple(words.matches(query, hit.text))) for hit in hits]

        return await asyncio.get_running_loop().run_in_executor(self._threads, matched), found

    async def _left(self, collection: int, condition: Filter, held: int) -> Explanation:
        """One reading for each condition, so that other searches have turns between them, and none is begun for a
        caller who has left."""
        allowed = len(await self._sieve.allowed(collection, condition))
        if not isinstance(condition, And):
            return Explanation(held, allowed, (allowed,))
        looks = [partial(allowed_chunks, wanted=part, collection=collection) for part in condition.parts]
        return Explanation(held, allowed, tuple([len(await self._database.read(look)) for look in looks]))
