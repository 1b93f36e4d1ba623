"""What routes share: the engine, a strict and bounded way to read bodies, and an end to work nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.access import METRICS, NOTHING, admitted, need_of
from app.api.audit import action_of, audited
from app.api.problems import ELSEWHERE, pointer
from app.engine import Engine
from app.errors import CallerLeft, Fault, Invalid, TimedOut, TooLarge, TooSlow, UnsupportedType, WinnowError

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
    """A route that is told who asks, and whose request is strict."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        methods = self.methods or set()
        handle, need, action = super().get_route_handler(), need_of(methods, self.path), action_of(methods, self.path)
        known = {each.alias for each in self.dependant.query_params}
        lenient = need in (NOTHING, METRICS) or ELSEWHERE in self.tags

        async def strictly(request: Request) -> Response:
            opened = engine(request)
            with admitted(opened.access, opened.metrics, request, need):
                if not lenient:
                    _check_parameters(request, known)
                work = partial(_handled, handle, StrictRequest(request.scope, request.receive))
                return await audited(opened.audit, action, request, work) if action else await work()

        return strictly


def _check_parameters(request: Request, known: set[str]) -> None:
    """One that is misspelt, or belongs into the body, may have named the collection."""
    if unknown := [name for name in request.query_params if name not in known]:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none: all stands in the body or the path"
        told = f"is not a parameter of this request: remove it, or check its spelling ({takes})"
        faults = [Fault(pointer(("query", each)), told) for each in unknown]
        raise Invalid("The request has parameters that it does not take.", faults)


async def _handled(handle: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await handle(request)
    except HTTPException as error:  # FastAPI makes a 400 of whatever goes wrong while it reads a body
        if isinstance(error.__cause__, WinnowError | OSError):
            raise error.__cause__ from None
        raise


async def aside(request: Request, work: Callable[[], T]) -> T:
    """The result of working on a request's body: in a thread if it is large."""
    return await asyncio.to_thread(work) if len(await request.body()) > PARSED_HERE else work()


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes in, with an end to patience between two pieces, and with one that trickles."""
    if (coding := request.headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
        raise UnsupportedType(f"A body in {coding} can't be read: send it as it is, without content-encoding.")
    settings, stream = engine(request).settings, request.stream()
    patience, rate = settings.body_timeout, settings.body_rate
    waited, come = 0.0, 0
    while True:
        left, began = patience + come / rate - waited if rate else patience, monotonic()
        try:
            async with asyncio.timeout(min(left, patience)):
                piece = await anext(stream, None)
        except ClientDisconnect:
            raise CallerLeft("The caller left before all of the body had come.") from None
        except TimeoutError:
            if left < patience:
                raise TooSlow(f"The body came at less than {rate:g} bytes a second.") from None
            raise TooSlow(f"No more of the body came for {patience:g} seconds.") from None
        if piece is None:
            return
        waited, come = waited + monotonic() - began, come + len(piece)
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
