"""The one table from errors to status codes, and the RFC 9457 documents that tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import errors
from app.errors import Fault, WinnowError
from app.telemetry import Metrics
from models.types import ModelError

logger = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
MOST_FAULTS = 100

ELSEWHERE = "in place of other services"
"""The tag of routes whose clients were made for other services: most of them show nothing but a `message`."""

TABLE: dict[type[Exception], tuple[int, str, str]] = {
    errors.Malformed: (400, "malformed", "The request is malformed"),
    errors.InvalidFilter: (422, "invalid-filter", "The filter is invalid"),
    errors.InvalidDocuments: (422, "invalid-documents", "Some documents are invalid"),
    errors.InvalidRecipe: (422, "invalid-recipe", "The recipe is invalid"),
    errors.Invalid: (422, "invalid", "The request is invalid"),
    errors.NotFound: (404, "not-found", "Not found"),
    errors.EncoderMismatch: (409, "encoder-mismatch", "The collection's vectors come from another encoder"),
    errors.Conflict: (409, "conflict", "Conflict"),
    errors.TooLarge: (413, "too-large", "The request is too large"),
    errors.TooSlow: (408, "too-slow", "The request came in too slowly"),
    errors.UnsupportedType: (415, "unsupported-type", "The content type is not supported"),
    errors.NotInstalled: (501, "not-installed", "An extra is not installed"),
    errors.CallerLeft: (499, "caller-left", "The caller left"),
    errors.Overloaded: (429, "overloaded", "Too much to do"),
    errors.TimedOut: (503, "timed-out", "It took too long"),
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

    def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return known(request, from_validation(error.errors()))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        metrics.errors.labels("http").inc()
        headers, detail = dict(error.headers or {}), str(error.detail)
        return _problem(request, error.status_code, "http", detail, detail, (), headers)

    def unforeseen(request: Request, error: Exception) -> Response:
        logger.error("request failed unforeseen", exc_info=error)
        metrics.errors.labels("internal").inc()
        detail = "Something went wrong here; the log has it under this request's id."
        return _problem(request, 500, "internal", "Internal error", detail, (), {})

    for each in (WinnowError, ModelError):
        app.add_exception_handler(each, known)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def respond(request: Request, error: Exception) -> Response:
    """The problem document of an error that stands in the table."""
    status, kind, title = _row(error)
    if status >= 500:
        logger.error("request failed", kind=kind, error=str(error))
    faults = error.faults if isinstance(error, errors.Invalid) else ()
    return _problem(request, status, kind, title, str(error), faults, _retry(error))


def _row(error: Exception) -> tuple[int, str, str]:
    return next(TABLE[each] for each in type(error).__mro__ if each in TABLE)


def from_validation(found: Sequence[Any]) -> errors.Invalid | errors.Malformed:
    """What pydantic found, as faults with JSON pointers."""
    if any(each["type"] == "json_invalid" for each in found):
        why = found[0].get("ctx", {}).get("error", found[0]["msg"])
        return errors.Malformed(f"The body is not valid JSON at character {found[0]['loc'][-1]}: {why}")
    return errors.Invalid(f"{len(found)} part(s) of the request are wrong.", faults_of(found))


def faults_of(found: Sequence[Any], within: str = "") -> list[Fault]:
    """What pydantic found, each with a pointer to it from the root of the body."""
    return [Fault(within + _pointer(each["loc"]), _advice(each)) for each in found[:MOST_FAULTS]]


def _advice(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "is not a field of this request: remove it, or check its spelling"
    return str(found["msg"]).removeprefix("Input ")


def _pointer(location: Sequence[Any]) -> str:
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in location if part != "body"]
    return "".join("/" + part.encode("utf-8", "backslashreplace").decode() for part in parts)


def _retry(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.Overloaded):
        return {"Retry-After": str(max(1, round(error.retry_after + 0.5)))}
    return {"Retry-After": "1"} if isinstance(error, errors.TimedOut | errors.Unavailable) else {}


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
