"""Which routes write: each is told in the audit log, with who asked and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from fastapi import Request, Response

from app.api.problems import status_of
from app.caller import caller
from app.service.audit import Audit

ACTIONS: dict[str, str] = {
    "POST /ingest": "ingest",
    "POST /ingest/files": "ingest files",
    "POST /documents/update": "update documents",
    "PATCH /documents/{document:path}": "update document",
    "POST /documents/delete": "delete documents",
    "DELETE /documents/{document:path}": "delete document",
    "POST /collections": "create collection",
    "DELETE /collections/{name}": "drop collection",
    "POST /collections/{name}/standby": "begin standby",
    "DELETE /collections/{name}/standby": "end standby",
    "POST /collections/{name}/switch": "switch",
    "PUT /collections/{name}/calibration": "calibrate",
    "DELETE /collections/{name}/calibration": "forget calibration",
    "POST /quality/reference": "take reference",
    "POST /feedback": "give feedback",
    "DELETE /feedback": "forget feedback",
    "GET /feedback/{part}": "export feedback",
    "GET /backup": "backup",
    "POST /check": "check",
}
"""And those that take everything along."""


def action_of(methods: Iterable[str], path: str) -> str | None:
    """None of a route that writes nothing."""
    (action,) = {ACTIONS.get(f"{method} {path}") for method in methods}
    return action


async def audited(audit: Audit, action: str, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """The answer, once the log has what it answers to. Who was not let in has written nothing."""
    try:
        response = await work()
    except Exception as error:  # whatever it is: the log is told, and it goes on its way
        await audit.tell(action, caller(), request.scope["request_id"], status_of(error))
        raise
    await audit.tell(action, caller(), request.scope["request_id"], response.status_code)
    return response
