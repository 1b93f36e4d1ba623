"""Standbys: a collection's documents made ready for other models in the background, and the switch to them and back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
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
        """Let the standby take the collection's place, also that of one that can't be opened. For the moment that it
        takes, ingests wait."""
        async with self._collections.changing():
            followed = None if self._collections.is_given_up(name) else self._served(name)
            if not self._has(name):
                raise Conflict(_none(name))
            standby = self._collections.shelf(f"{name}{STANDBY}")
            await self._check_ready(standby, force=force)
            with followed.closed_to_intake() if followed else nullcontext():
                await self._switch(name, standby, force=force)

    async def end(self, name: str) -> None:
        """Drop the standby, and all that it holds."""
        if not caller().sees(name) or not self._has(name):
            raise NotFound(_none(name))
        await self._collections.drop(f"{name}{STANDBY}")

    async def _check_ready(self, standby: Shelf, *, force: bool) -> None:
        found = await self._database.read(lambda db: rows.progress(db, *_numbers(standby)))
        if found.behind + found.pending > NEARLY:
            raise Conflict(_left(standby.collection.name, found))
        if found.failed and not force:
            raise Conflict(await self._lacking(standby, found.failed))

    async def _switch(self, name: str, standby: Shelf, *, force: bool) -> None:
        numbers, deadline = _numbers(standby), monotonic() + SWITCH_SECONDS
        overrules = self._settings.models if name == DEFAULT else ""
        while True:
            left = await self._database.write(lambda db: rows.switch(db, name, *numbers, overrules, force=force))
            if left.failed and not force:
                raise Conflict(await self._lacking(standby, left.failed))
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
        logger.info("switched", collection=name, encoder=standby.collection.encoder)

    async def _lacking(self, standby: Shelf, count: int) -> str:
        some = await self._database.read(lambda db: rows.failures(db, *_numbers(standby), TOLD))
        told = "; ".join(f"'{document}': {why}" for document, why in some.items())
        name = standby.collection.name
        return (
            f"'{name}' can't take {count:,} documents that '{name.removesuffix(STANDBY)}' has "
            f"({told}). Change or delete them, begin another standby, or switch with `force` and do without them."
        )

    def _served(self, name: str) -> Shelf:
        shelf = self._collections.shelf(name)
        if shelf.collection.is_standby:
            raise Conflict(f"'{name}' is a standby itself: name the collection that it follows.")
        return shelf

    def _has(self, name: str) -> bool:
        return self._collections.has(f"{name}{STANDBY}")


def _numbers(standby: Shelf) -> tuple[int, int]:
    """Its own, and that of the collection that it follows."""
    followed = standby.collection.follows
    assert followed is not None
    return standby.collection.number, followed


def _none(name: str) -> str:
    return f"Collection '{name}' has no standby. Begin one with POST /collections/{name}/standby."


def _left(name: str, found: Progress) -> str:
    return (
        f"'{name}' is not ready to take over: {found.behind:,} documents are still to be taken over, and "
        f"{found.pending:,} to be embedded. Try again when it has caught up."
    )
