"""The chunks that filters leave. Applications ask with the same few filters again and again."""

from __future__ import annotations

from hashlib import blake2b

import apsw

from app.sharer import Memory
from app.stores.filters import Filter, allowed_chunks
from app.stores.sqlite import Database
from app.types import ChunkIds


class Sieve:
    """Remembers what filters leave until anything is written."""

    def __init__(self, database: Database, size: int) -> None:
        self._database = database
        self._memory = Memory(size)

    async def allowed(self, collection: int, condition: Filter) -> ChunkIds:
        def look(db: apsw.Connection) -> ChunkIds:
            state = self._database.state  # before the first row: what is newer than its key harms nobody
            if state is None:
                return allowed_chunks(db, condition, collection)
            key = _key(state, collection, condition)
            remembered: dict[bytes, ChunkIds] = self._memory.recall([key])
            if key not in remembered:
                remembered[key] = allowed_chunks(db, condition, collection)
                self._memory.keep([key], [remembered[key]])
            return remembered[key]

        return await self._database.read(look)


def _key(state: int, collection: int, condition: Filter) -> bytes:
    """A tree of conditions shows all that is in it, and strings are quoted: two of them never look the same."""
    return blake2b(repr((state, collection, condition)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
