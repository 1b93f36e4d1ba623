"""What every request goes through: an id, a place among those running, a log line, a measure of its time."""

from __future__ import annotations

import re
from time import perf_counter
from uuid import uuid4

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import respond
from app.errors import Overloaded
from app.telemetry import Metrics

logger = structlog.get_logger()

SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
QUIET = {"/healthz", "/readyz", "/metrics"}
"""Asked for every few seconds by machines: measured, but not worth a log line."""


class Requests:
    """ASGI middleware. Nothing of a request's text is logged."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        self._app = app
        self._metrics = metrics
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = _request_id(scope), perf_counter(), 0
        scope["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        handle = self._app if self._running < self._most else self._refuse
        self._running += 1
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await handle(scope, receive, send_with_id)
            finally:
                self._running -= 1
                self._tell(scope, status, perf_counter() - began)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Before anything of the request is read."""
        self._metrics.refusals.labels("requests").inc()
        refusal = Overloaded(f"{self._most} requests are under way, the most that are allowed.", retry_after=1.0)
        await respond(Request(scope), refusal)(scope, receive, send)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.request_seconds.labels(route, str(status)).observe(seconds)
        if route not in QUIET:
            ms = round(seconds * 1000, 1)
            logger.info("request", method=scope["method"], route=route, status=status, ms=ms)


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is sane, so that logs can be followed across services; otherwise a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if SANE_ID.fullmatch(given) else uuid4().hex
