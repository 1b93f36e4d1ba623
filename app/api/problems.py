"""The one table from errors to status codes, and the RFC 9457 documents that tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app import errors
from app.errors import Fault, WinnowError
from app.stores.room import FULL
from app.telemetry import Metrics
from models.types import ModelError

logger = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
MOST_FAULTS = 100
WAYS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

ELSEWHERE = "in place of other services"
"""The tag of routes whose clients were made for other services: most of them show nothing but a `message`."""

TABLE: dict[type[Exception], tuple[int, str, str]] = {
    errors.Malformed: (400, "malformed", "The request is malformed"),
    errors.InvalidFilter: (422, "invalid-filter", "The filter is invalid"),
    errors.InvalidDocuments: (422, "invalid-documents", "Some documents are invalid"),
    errors.InvalidRecipe: (422, "invalid-recipe", "The recipe is invalid"),
    errors.Invalid: (422, "invalid", "The request is invalid"),
    errors.Unauthenticated: (401, "unauthenticated", "A key is needed"),
    errors.Forbidden: (403, "forbidden", "Not allowed"),
    errors.NotFound: (404, "not-found", "Not found"),
    errors.EncoderMismatch: (409, "encoder-mismatch", "The collection's vectors come from another encoder"),
    errors.Conflict: (409, "conflict", "Conflict"),
    errors.NoSpace: (507, "no-space", "The disk is full"),
    errors.HeadTooLarge: (431, "head-too-large", "The headers are too large"),
    errors.TooLarge: (413, "too-large", "The request is too large"),
    errors.TooSlow: (408, "too-slow", "The request came in too slowly"),
    errors.UnsupportedType: (415, "unsupported-type", "The content type is not supported"),
    errors.NotInstalled: (501, "not-installed", "An extra is not installed"),
    errors.CallerLeft: (499, "caller-left", "The caller left"),
    errors.Spent: (429, "spent", "The key's tokens are spent"),
    errors.Overloaded: (429, "overloaded", "Too much to do"),
    errors.TimedOut: (503, "timed-out", "It took too long"),
    errors.Damaged: (500, "damaged", "Stored data is damaged"),
    errors.Unavailable: (503, "unavailable", "Not now"),
    ModelError: (500, "model", "A model failed"),
}
"""Error, status, kind and title."""


def install(app: FastAPI, metrics: Metrics) -> None:
    """Let every error of this app become a problem document and be counted."""
    for kind in ("http", "internal", *(kind for _, kind, _ in TABLE.values())):
        metrics.errors.labels(kind)

    def known(request: Request, error: Exception) -> Response:
        metrics.errors.labels(_row(error)[1]).inc()
        return respond(request, error)

    def system(request: Request, error: Exception) -> Response:
        """The disk that uploads and long answers are kept on meanwhile may be full as well."""
        if isinstance(error, OSError) and error.errno in FULL:
            return known(request, errors.NoSpace("There is no room on the disk for temporary files: free some."))
        raise error

    def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return known(request, from_validation(error.errors(), error.body))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        metrics.errors.labels("http").inc()
        headers, title = dict(error.headers or {}), str(error.detail)
        if error.status_code == 405:
            headers["Allow"] = _ways(request)
        detail = _way_on(request, error.status_code, headers) or title
        return _problem(request, error.status_code, "http", title, detail, (), headers)

    for each in (WinnowError, ModelError):
        app.add_exception_handler(each, known)
    app.add_exception_handler(OSError, system)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def respond(request: Request, error: Exception) -> Response:
    """The problem document of an error that stands in the table."""
    status, kind, title = _row(error)
    if status >= 500:
        logger.error("request failed", kind=kind, error=error)
    faults = error.faults if isinstance(error, errors.Invalid) else ()
    return _problem(request, status, kind, title, str(error), faults, _headers(error))


def unforeseen(request: Request, error: Exception, metrics: Metrics) -> Response:
    logger.error("request failed unforeseen", exc_info=error)
    metrics.errors.labels("internal").inc()
    detail = "Something went wrong here; the log has it under this request's id."
    return _problem(request, 500, "internal", "Internal error", detail, (), {})


def status_of(error: Exception) -> int:
    """What an error will be answered with."""
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, RequestValidationError):
        error = from_validation(error.errors(), error.body)
    if isinstance(error, OSError) and error.errno in FULL:
        return TABLE[errors.NoSpace][0]
    return _row(error)[0] if isinstance(error, WinnowError | ModelError) else 500


def before_a_request(error: Exception, metrics: Metrics) -> Response:
    """The same, counted, where what came can't be read as a request."""
    metrics.errors.labels(_row(error)[1]).inc()
    return respond(Request({"type": "http"}), error)


def _ways(request: Request) -> str:
    """The methods of a path; a route by itself knows but its own, and a path may have several routes."""
    scope, routes = request.scope, request.app.routes
    return ", ".join(
        way for way in WAYS if any(each.matches({**scope, "method": way})[0] is Match.FULL for each in routes)
    )


def _way_on(request: Request, status: int, headers: dict[str, str]) -> str | None:
    """What to change where Starlette says no more than what the status says."""
    path = request.scope["path"]
    if status == 404:
        return f"There is nothing at {path}: GET /docs shows what there is."
    return f"{path} takes {headers['Allow']}, not {request.method}." if status == 405 else None


def _row(error: Exception) -> tuple[int, str, str]:
    return next(TABLE[each] for each in type(error).__mro__ if each in TABLE)


def from_validation(found: Sequence[Any], body: object = None) -> WinnowError:
    """What pydantic found, as faults with JSON pointers. A body that was left as bytes did not say that it is JSON."""
    if any(each["type"] == "json_invalid" for each in found):
        why = found[0].get("ctx", {}).get("error", found[0]["msg"])
        return errors.Malformed(f"The body is not valid JSON at character {found[0]['loc'][-1]}: {why}")
    if isinstance(body, bytes):
        return errors.UnsupportedType(
            "The body has to be JSON, and say so: send the header content-type: application/json."
        )
    return errors.Invalid(f"{len(found)} part(s) of the request are wrong.", faults_of(found))


def faults_of(found: Sequence[Any], within: str = "") -> list[Fault]:
    """What pydantic found, each with a pointer to it from the root of the body."""
    return [Fault(within + pointer(each["loc"]), _advice(each)) for each in found[:MOST_FAULTS]]


def _advice(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "is not a field of this request: remove it, or check its spelling"
    return str(found["msg"]).removeprefix("Input ")


def pointer(location: Sequence[Any]) -> str:
    """The JSON pointer to where pydantic, or a route, found something wrong."""
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in location if part != "body"]
    return "".join("/" + part.encode("utf-8", "backslashreplace").decode() for part in parts)


def _headers(error: Exception) -> dict[str, str]:
    """What a client may act on by itself."""
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="winnow"'}
    if isinstance(error, errors.Forbidden) and error.scopes:
        return {
            "WWW-Authenticate": f'Bearer realm="winnow", error="insufficient_scope", scope="{" ".join(error.scopes)}"'
        }
    if isinstance(error, errors.Overloaded):
        return {"Retry-After": str(max(1, round(error.retry_after + 0.5)))}
    return {"Retry-After": "1"} if isinstance(error, errors.TimedOut | errors.Unavailable | errors.NoSpace) else {}


def _problem(
    request: Request, status: int, kind: str, title: str, detail: str, faults: Sequence[Fault], headers: dict[str, str]
) -> Response:
    document: dict[str, Any] = {
        "type": f"urn:winnow:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    document["request_id"] = request.scope.get("request_id")
    if faults:
        document["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults[:MOST_FAULTS]]
    if ELSEWHERE in getattr(request.scope.get("route"), "tags", ()):
        document["message"] = " ".join([detail, *(f"{fault.pointer} {fault.detail}." for fault in faults[:1])])
    return Response(orjson.dumps(document), status, headers, MEDIA_TYPE)
