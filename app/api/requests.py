"""What every request goes through: an id, a place among those running, a log line, a measure of its time."""

from __future__ import annotations

import re
from time import perf_counter
from uuid import uuid4

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import respond, unforeseen
from app.caller import Caller
from app.errors import Overloaded
from app.telemetry import Metrics
from app.trail import Facts, Trace, Tracer, Trail, leaving

logger = structlog.get_logger()

SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
QUIET = {"/healthz", "/readyz", "/metrics"}
"""Asked for every few seconds by machines: measured, but not worth a log line, and never refused for what others do."""


GUARDS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""For browsers: answers are data, which is not to be run, framed, guessed at, lent to other pages or kept."""


class Requests:
    """ASGI middleware. Nothing of a request's text is logged."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int, slow: float, tracer: Tracer | None) -> None:
        self._app = app
        self._metrics = metrics
        self._most = most
        self._slow = slow
        self._tracer = tracer
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail, began, status = self._trail(scope), perf_counter(), 0
        scope["request_id"] = trail.request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", trail.request_id.encode()), *_allowance(scope)]
                message["headers"] = [*message.get("headers", []), *own, *_guards(message)]
            await send(message)

        let_in = self._running < self._most or scope["path"] in QUIET
        handle = self._app if let_in else self._refuse
        self._running += 1
        with structlog.contextvars.bound_contextvars(**trail.ids), leaving(trail):
            try:
                await handle(scope, receive, send_with_id)
            except (
                Exception
            ) as error:  # whatever it is, it has an answer, with an id; half an answer can only break off
                if status:
                    raise
                await unforeseen(Request(scope), error, self._metrics)(scope, receive, send_with_id)
            finally:
                self._running -= 1
                self._tell(scope, trail, status, perf_counter() - began)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Before anything of the request is read."""
        self._metrics.refusals.labels("requests").inc()
        refusal = Overloaded(f"{self._most} requests are under way, the most that are allowed.", retry_after=1.0)
        await respond(Request(scope), refusal)(scope, receive, send)

    def _trail(self, scope: Scope) -> Trail:
        tracer = None if scope["path"] in QUIET else self._tracer
        return Trail(_request_id(scope), tracer.begin(_headers(scope)) if tracer else None)

    def _tell(self, scope: Scope, trail: Trail, status: int, seconds: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", "unknown")
        self._metrics.request_seconds.labels(route, str(status)).observe(seconds, trail.ids)
        if trail.trace:
            _end(trail.trace, method, route, status, trail.request_id)
        facts = {"method": method, "route": route, "status": status, "ms": _ms(seconds)}
        if who := scope.get("caller"):
            facts["caller"] = who.name
        if seconds > self._slow:
            logger.warning("slow request", **facts, stages=_timings(trail))
        elif route not in QUIET:
            logger.info("request", **facts)


def _end(trace: Trace, method: str, route: str, status: int, request_id: str) -> None:
    """By OpenTelemetry's conventions for HTTP."""
    facts: Facts = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "winnow.request_id": request_id,
    }
    trace.end(f"{method} {route}", facts, failed=status >= 500)


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is sane, so that logs can be followed across services; otherwise a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if SANE_ID.fullmatch(given) else uuid4().hex


def _guards(message: Message) -> list[tuple[bytes, bytes]]:
    """What an answer does not say itself."""
    said = {name for name, _ in message.get("headers", [])}
    return [(name, value) for name, value in GUARDS if name not in said]


def _allowance(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What is left to the caller's key, where it is limited."""
    who: Caller | None = scope.get("caller")
    left = who.meter.left if who else None
    return [] if left is None else [(b"winnow-tokens-left", str(left).encode())]


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _timings(trail: Trail) -> dict[str, dict[str, float]]:
    return {stage: {part: _ms(spent) for part, spent in parts.items()} for stage, parts in trail.seconds.items()}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
