"""Why an answer is as it is: the words that matched, and how much a filter left to search."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import apsw

from app.service.shelf import Shelf
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

    def __init__(self, database: Database, threads: Executor) -> None:
        self._database = database
        self._threads = threads

    async def explain(
        self, shelf: Shelf, query: str, condition: Filter | None, hits: Sequence[Hit]
    ) -> tuple[list[Hit], Explanation]:
        held = len(shelf.indexes.dense.index)
        number = shelf.collection.number
        found = Explanation(held, held, ())
        if condition is not None:
            found = await self._database.read(lambda db: _left(db, condition, number, held))
        words = shelf.indexes.lexical.index

        def matched() -> list[Hit]:
            return [replace(hit, matches=tuple(words.matches(query, hit.text))) for hit in hits]

        return await asyncio.get_running_loop().run_in_executor(self._threads, matched), found


def _left(db: apsw.Connection, condition: Filter, collection: int, held: int) -> Explanation:
    def count(part: Filter) -> int:
        return len(allowed_chunks(db, part, collection))

    parts = condition.parts if isinstance(condition, And) else (condition,)
    return Explanation(held, count(condition), tuple(count(part) for part in parts))
