"""Who wrote what, and what came of it: told before the writer is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from app.caller import Caller
from app.errors import NoSpace, Unavailable
from app.stores.audit import append
from app.stores.room import FULL

logger = structlog.get_logger()


class Audit:
    """To a file, line by line, or to the log where none was named."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    async def tell(self, action: str, who: Caller, request_id: str, status: int) -> None:
        """Names and counts, never texts; nor ids of documents, which may be names of people or files."""
        facts: dict[str, object] = {"action": action, "caller": who.name, "request_id": request_id, "status": status}
        names = list(who.deed.collections)
        if names:
            facts |= {"collection": names[0]} if len(names) == 1 else {"collections": names}
        if who.deed.documents is not None:
            facts["documents"] = who.deed.documents
        if self._path is None:
            logger.info("write", **facts)
        else:
            await self._keep(self._path, facts)

    async def _keep(self, path: Path, facts: dict[str, object]) -> None:
        try:
            await asyncio.to_thread(append, path, facts)
        except OSError as error:
            logger.error("a write is not in the audit log", error=error, **facts)
            kind = NoSpace if error.errno in FULL else Unavailable
            raise kind("The audit log can't be written, so what was asked for is not confirmed: ask again.") from error
