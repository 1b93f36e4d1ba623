"""GET /backup: the whole service as one file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.contract import refusals
from app.api.deps import EngineDep, StrictRoute, in_time
from app.errors import Conflict, Damaged, NoSpace
from app.stores.archive import Archive

router = APIRouter(prefix="/backup", tags=["operations"], route_class=StrictRoute)

TAR = "application/x-tar"
GATHER_SECONDS = 3600.0


class Sent(StreamingResponse):
    """A backup on its way; it is let go of however that ends."""

    def __init__(self, archive: Archive, held: AsyncExitStack) -> None:
        name = f"winnow-{datetime.now(UTC):%Y%m%dT%H%M%S}.tar"
        headers = {"Content-Length": str(archive.size), "Content-Disposition": f'attachment; filename="{name}"'}
        super().__init__(_pieces(archive), headers=headers, media_type=TAR)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


@router.get(
    "",
    response_class=Response,
    responses={
        200: {"content": {TAR: {"schema": {"type": "string", "format": "binary"}}}},
        **refusals(Conflict, NoSpace, Damaged),
    },
    summary="Back up everything: a tar, for `winnow restore`",
)
async def backup(request: Request, engine: EngineDep) -> Response:
    async with AsyncExitStack() as held:
        archive = await in_time(request, GATHER_SECONDS, held.enter_async_context(engine.backups.make()))
        return Sent(archive, held.pop_all())


async def _pieces(archive: Archive) -> AsyncIterator[bytes]:
    blocks = archive.blocks()
    while (piece := await asyncio.to_thread(next, blocks, None)) is not None:
        yield piece
