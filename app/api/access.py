"""Who may ask what: one line for each route. A route that is not here can't be made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request

from app.caller import Caller, Scope, acting
from app.errors import Forbidden, Unauthenticated
from app.service.access import Access
from app.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Need:
    """What a route asks of a key."""

    scopes: frozenset[Scope]
    """Any of them will do; none are needed where there are none."""
    whole: bool = False
    """It tells or changes something of all collections at once, which a key that is limited to some may not."""


def _any_of(*scopes: Scope) -> Need:
    return Need(frozenset(scopes))


NOTHING = _any_of()
SEARCH, INGEST, ADMIN = _any_of("search"), _any_of("ingest"), _any_of("admin")
LOOK, WATCH = _any_of("search", "ingest"), _any_of("search", "metrics")
WHOLE, METRICS = Need(frozenset({"admin"}), whole=True), Need(frozenset({"metrics"}), whole=True)

NEEDS: dict[str, Need] = {
    "GET /healthz": NOTHING,
    "GET /readyz": NOTHING,
    "GET /docs": NOTHING,
    "GET /metrics": METRICS,
    "POST /search": SEARCH,
    "POST /rerank": SEARCH,
    "POST /v1/rerank": SEARCH,
    "POST /v2/rerank": SEARCH,
    "POST /v1/embeddings": SEARCH,
    "POST /embed": SEARCH,
    "GET /v1/models": SEARCH,
    "GET /documents/{document:path}": LOOK,
    "GET /collections": LOOK,
    "GET /collections/{name}": LOOK,
    "GET /collections/{name}/calibration": LOOK,
    "GET /quality": WATCH,
    "POST /quality/reference": ADMIN,
    "GET /jobs/{job}": INGEST,
    "POST /ingest": INGEST,
    "POST /ingest/files": INGEST,
    "POST /ingest/files/known": INGEST,
    "POST /documents/list": LOOK,
    "POST /documents/update": INGEST,
    "PATCH /documents/{document:path}": INGEST,
    "POST /documents/delete": INGEST,
    "DELETE /documents/{document:path}": INGEST,
    "POST /collections": ADMIN,
    "DELETE /collections/{name}": ADMIN,
    "POST /collections/{name}/standby": ADMIN,
    "DELETE /collections/{name}/standby": ADMIN,
    "POST /collections/{name}/switch": ADMIN,
    "PUT /collections/{name}/calibration": ADMIN,
    "DELETE /collections/{name}/calibration": ADMIN,
    "POST /feedback": SEARCH,
    "GET /feedback": ADMIN,
    "GET /feedback/{part}": ADMIN,
    "DELETE /feedback": ADMIN,
    "GET /backup": WHOLE,
    "GET /check": WHOLE,
    "POST /check": WHOLE,
}


def need_of(methods: Iterable[str], path: str) -> Need:
    """What a new route needs; HEAD, whatever GET does."""
    (need,) = {_named(f"{method.replace('HEAD', 'GET')} {path}") for method in methods}
    return need


def _named(route: str) -> Need:
    if route not in NEEDS:
        raise LookupError(f"Nobody may ask {route} yet: say in app/api/access.py which scopes may.")
    return NEEDS[route]


@contextmanager
def admitted(access: Access, metrics: Metrics, request: Request, need: Need) -> Iterator[None]:
    """Let the caller in, before anything of the body is read, or say why not."""
    access.check_origin(request.headers.get("host", ""), request.headers.get("origin"))
    if need is NOTHING:
        yield
        return
    who = access.admit(presented(request))
    request.scope["caller"] = who
    _check(who, need)
    try:
        with acting(who):
            yield
    finally:
        metrics.key_tokens.labels(who.name).inc(who.meter.read)


def presented(request: Request) -> str | None:
    """The key that a request brings, by whichever header."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")


def sees_all(access: Access, request: Request) -> bool:
    """Whether this caller may be told of every collection."""
    try:
        return not access.admit(presented(request)).collections
    except Unauthenticated:
        return False


def _check(who: Caller, need: Need) -> None:
    if not who.may(need.scopes):
        wanted = " or ".join(sorted(need.scopes))
        raise Forbidden(f"This key ({who.name}) lacks the scope {wanted}.", sorted(need.scopes))
    if need.whole and who.collections:
        raise Forbidden(f"This is about all collections, and this key ({who.name}) is limited to some.")
