"""What routes share: the engine, a strict and bounded way to read bodies, and an end to work nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.engine import Engine
from app.errors import CallerLeft, TimedOut, TooLarge, TooSlow, WinnowError

T = TypeVar("T")

PARSED_HERE = 65_536
"""A larger body is worked on in a thread: the event loop has others to serve."""


def engine(request: Request) -> Engine:
    found: Engine = request.app.state.engine
    return found


EngineDep = Annotated[Engine, Depends(engine)]


class StrictRequest(Request):
    """Reads a body no longer than allowed, and JSON as RFC 8259 has it: no NaN, no half surrogates."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            limit = engine(self).settings.max_body_bytes
            parts, size = [], 0
            async for part in pieces(self):
                size += len(part)
                if size > limit:
                    raise TooLarge(f"The body is longer than {limit} bytes. Send less at once, or NDJSON to /ingest.")
                parts.append(part)
            self._body = b"".join(parts)
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        return await aside(self, lambda: orjson.loads(body))


class StrictRoute(APIRoute):
    """A route whose request is strict."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            try:
                return await handle(StrictRequest(request.scope, request.receive))
            except HTTPException as error:  # FastAPI makes a 400 of whatever goes wrong while it reads a body
                if isinstance(error.__cause__, WinnowError):
                    raise error.__cause__ from None
                raise

        return strictly


async def aside(request: Request, work: Callable[[], T]) -> T:
    """The result of working on a request's body: in a thread if it is large."""
    return await asyncio.to_thread(work) if len(await request.body()) > PARSED_HERE else work()


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes in, with an end to patience between two pieces."""
    patience = engine(request).settings.body_timeout
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(patience):
                piece = await anext(stream, None)
        except ClientDisconnect:
            raise CallerLeft("The caller left before all of the body had come.") from None
        except TimeoutError:
            raise TooSlow(f"No more of the body came for {patience:g} seconds.") from None
        if piece is None:
            return
        yield piece


async def in_time(request: Request, seconds: float, work: Awaitable[T]) -> T:
    """The result of the work, unless it takes too long or its caller leaves: then the work is cancelled."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerLeft("The caller left.") if gone.done() else TimedOut(f"No answer within {seconds:g} seconds.")
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
