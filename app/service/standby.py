"""Standbys: a collection's documents made ready for other models in the background, and the switch to them and back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from types import MappingProxyType
from typing import Any

import apsw
import structlog

from app.caller import caller
from app.errors import Conflict, NotFound
from app.service.collections import DEFAULT, Collections
from app.service.feedback import Feedback
from app.service.shelf import Shelf
from app.settings import Settings
from app.stores import standby as rows
from app.stores.sqlite import Database
from app.stores.standby import Progress
from app.types import STANDBY, Collection
from models.words import Language

logger = structlog.get_logger()

NEARLY = 1000
"""Documents that may be left to do when a switch is asked for: they are waited for, and so are ingests meanwhile."""

TOLD = 3
"""Documents that are named when some can't be taken."""

SWITCH_SECONDS = 10.0
PAUSE_SECONDS = 0.05


class Standbys:
    """At most one for each collection."""

    def __init__(self, database: Database, collections: Collections, feedback: Feedback, settings: Settings) -> None:
        self._database = database
        self._collections = collections
        self._feedback = feedback
        self._settings = settings

    async def begin(
        self,
        name: str,
        encoder: str | None = None,
        reranker: str | None = None,
        recipe: Mapping[str, Any] = MappingProxyType({}),
        language: Language | None = None,
        sparse: str | None = None,
        late: bool | None = None,
    ) -> Collection:
        """A standby of a collection; what is not said is as the collection has it, but for vectors of tokens: whether
        there are any is then as the settings have it."""
        followed = self._served(name).collection
        return await self._collections.create(
            f"{name}{STANDBY}",
            encoder or followed.encoder,
            reranker or followed.reranker,
            replace(followed.recipe, **recipe),
            language or followed.language,
            followed.sparse if sparse is None else sparse,
            late,
            follows=followed.number,
        )

    async def progress(self, followed: int) -> Progress | None:
        """How far a collection's standby is, if it has one."""

        def read(db: apsw.Connection) -> Progress | None:
            standby = rows.of(db, followed)
            return None if standby is None else rows.progress(db, standby, followed)

        return await self._database.read(read)

    async def switch(self, name: str, *, force: bool = False) -> None:
        """Let the standby take the collection's place. For the moment that it takes, ingests wait."""
        async with self._collections.changing():
            followed = self._served(name)
            if not self._has(name):
                raise Conflict(_none(name))
            standby = self._collections.shelf(f"{name}{STANDBY}")
            await self._check_ready(followed, standby, force=force)
            followed.intake.clear()
            try:
                await self._switch(name, followed, standby, force=force)
            finally:
                followed.intake.set()

    async def end(self, name: str) -> None:
        """Drop the standby, and all that it holds."""
        if not caller().sees(name) or not self._has(name):
            raise NotFound(_none(name))
        await self._collections.drop(f"{name}{STANDBY}")

    async def _check_ready(self, followed: Shelf, standby: Shelf, *, force: bool) -> None:
        found = await self._progress(followed, standby)
        if found.behind + found.pending > NEARLY:
            raise Conflict(_left(standby.collection.name, found))
        if found.failed and not force:
            raise Conflict(await self._lacking(followed, standby, found.failed))

    async def _switch(self, name: str, followed: Shelf, standby: Shelf, *, force: bool) -> None:
        numbers, deadline = (standby.collection.number, followed.collection.number), monotonic() + SWITCH_SECONDS
        overrules = self._settings.models if name == DEFAULT else ""
        while True:
            left = await self._database.write(lambda db: rows.switch(db, name, *numbers, overrules, force=force))
            if left.failed and not force:
                raise Conflict(await self._lacking(followed, standby, left.failed))
            if not left.behind and not left.pending:
                break
            if monotonic() > deadline:
                raise Conflict(_left(standby.collection.name, left))
            if standby.copier:
                standby.copier.hurry()
            await asyncio.sleep(PAUSE_SECONDS)
        await self._collections.trade_places(name, overrules)
        caller().deed.touch(name)
        self._feedback.recount(numbers)
        logger.info("switched", collection=name, encoder=standby.collection.encoder, before=followed.collection.encoder)

    async def _progress(self, followed: Shelf, standby: Shelf) -> Progress:
        numbers = standby.collection.number, followed.collection.number
        return await self._database.read(lambda db: rows.progress(db, *numbers))

    async def _lacking(self, followed: Shelf, standby: Shelf, count: int) -> str:
        numbers = standby.collection.number, followed.collection.number
        some = await self._database.read(lambda db: rows.failures(db, *numbers, TOLD))
        told = "; ".join(f"'{document}': {why}" for document, why in some.items())
        return (
            f"'{standby.collection.name}' can't take {count:,} documents that '{followed.collection.name}' has "
            f"({told}). Change or delete them, begin another standby, or switch with `force` and do without them."
        )

    def _served(self, name: str) -> Shelf:
        shelf = self._collections.shelf(name)
        if shelf.collection.is_standby:
            raise Conflict(f"'{name}' is a standby itself: name the collection that it follows.")
        return shelf

    def _has(self, name: str) -> bool:
        return self._collections.has(f"{name}{STANDBY}")


def _none(name: str) -> str:
    return f"Collection '{name}' has no standby. Begin one with POST /collections/{name}/standby."


def _left(name: str, found: Progress) -> str:
    return (
        f"'{name}' is not ready to take over: {found.behind:,} documents are still to be taken over, and "
        f"{found.pending:,} to be embedded. Try again when it has caught up."
    )
