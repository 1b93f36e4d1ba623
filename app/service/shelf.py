"""A collection that is open, with all that works for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import WinnowError
from app.service.copier import Copier
from app.service.indexer import Indexer
from app.service.indexes import Indexes
from app.service.reader import Reader
from app.stages.chunk import Chunker
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher
from app.types import Collection
from models.types import LateHead


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@dataclass(frozen=True, slots=True)
class Shelf:
    """What every use-case needs to work on a collection."""

    collection: Collection
    embedder: Embedder
    ranker: Ranker
    chunker: Chunker
    indexes: Indexes
    indexer: Indexer
    reader: Reader
    weigher: Weigher | None = None
    """None in a collection without sparse vectors."""
    copier: Copier | None = None
    """None but in a standby."""
    intake: asyncio.Event = field(default_factory=_open_gate)
    """Unset for the moment of a switch, when nothing may come in."""

    @property
    def late(self) -> LateHead | None:
        """How its chunks are compared token by token, if they have what that takes."""
        return self.embedder.encoder.late if self.collection.late else None

    @property
    def trouble(self) -> str | None:
        """Why nothing moves, if nothing does."""
        return self.indexer.trouble or (self.copier.trouble if self.copier else None)

    @contextmanager
    def closed_to_intake(self) -> Iterator[None]:
        self.intake.clear()
        try:
            yield
        finally:
            self.intake.set()

    def start(self) -> None:
        for worker in (self.indexer, self.reader, self.copier):
            if worker is not None:
                worker.start()

    async def end(self, why: WinnowError | None = None) -> None:
        """Whoever waits for documents is told why."""
        if self.copier is not None:
            await self.copier.close()
        await self.reader.close()
        await self.indexer.close(why)
