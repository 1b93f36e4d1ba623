"""What the OpenAPI says beyond what FastAPI finds out: what can go wrong, and what an answer leads to."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app import errors
from app.api.access import NEEDS, NOTHING
from app.api.problems import MEDIA_TYPE, TABLE
from app.api.schemas import IngestBody, Problem
from models.types import ModelError

Json = dict[str, Any]

REFERENCE = "#/components/schemas/{model}"

KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

ALWAYS = (errors.HeadTooLarge, errors.Overloaded, errors.Unavailable, ModelError)
OF_BODIES = (errors.Malformed, errors.TooSlow, errors.TooLarge, errors.Invalid, errors.NoSpace, errors.UnsupportedType)

OF_COLLECTIONS = (errors.NotFound, errors.EncoderMismatch)
"""What a route can meet that asks a collection for anything."""

NAME = {"name": "$response.body#/name"}
JOB = {"job": "$response.body#/job"}
IN_NEW = {"collection": "$response.body#/name"}
IN_SAME = {"collection": "$response.body#/collection"}
FIRST_TAKEN = IN_SAME | {"document": "$response.body#/documents/0/id"}
FIRST_FOUND = IN_SAME | {"document": "$response.body#/hits/0/document_id"}
CLICKED = FIRST_FOUND | {
    "query": "$request.body#/query",
    "request_id": "$response.header.x-request-id",
    "clicked": True,
}
FIRST_FILE = IN_SAME | {"document": "$response.body#/files/0/id"}

LINKS: dict[tuple[str, str], dict[str, Json]] = {
    ("post /collections", "201"): {
        "get /collections/{name}": NAME,
        "post /ingest": IN_NEW,
        "post /search": IN_NEW,
        "put /collections/{name}/calibration": NAME,
        "delete /collections/{name}": NAME,
    },
    ("post /ingest", "200"): {
        "get /jobs/{job}": JOB,
        "post /search": IN_SAME,
        "get /documents/{document}": FIRST_TAKEN,
        "delete /documents/{document}": FIRST_TAKEN,
    },
    ("post /ingest", "202"): {"get /jobs/{job}": JOB},
    ("post /ingest/files", "200"): {"get /jobs/{job}": JOB, "get /documents/{document}": FIRST_FILE},
    ("post /search", "200"): {"get /documents/{document}": FIRST_FOUND, "post /feedback": CLICKED},
    ("put /collections/{name}/calibration", "200"): {
        "get /collections/{name}/calibration": {"name": "$request.path.name"},
        "delete /collections/{name}/calibration": {"name": "$request.path.name"},
    },
    ("get /documents/{document}", "200"): {
        "delete /documents/{document}": IN_SAME | {"document": "$response.body#/id"},
    },
}
"""What can be asked after an answer, with what of it."""


class Described(FastAPI):
    """An app whose OpenAPI is all that there is to know of it."""

    def openapi(self) -> Json:
        if self.openapi_schema is None:
            _complete(super().openapi())
        return super().openapi()


def refusals(*kinds: type[Exception]) -> dict[int | str, Json]:
    """These errors as answers of a route."""
    return {TABLE[kind][0]: _refusal(TABLE[kind][2]) for kind in kinds}


def _refusal(why: str) -> Json:
    return {"description": why, "content": {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model=Problem.__name__)}}}}


def _complete(described: Json) -> None:
    operations = {f"{way} {path}": each for path, ways in described["paths"].items() for way, each in ways.items()}
    for name, operation in operations.items():
        way, _, path = name.partition(" ")
        _add_keys(f"{way.upper()} {path}", operation)
        _add_refusals(way, operation)
    described["components"]["securitySchemes"] = KEYS
    for (name, status), links in LINKS.items():
        operations[name]["responses"][status]["links"] = {_title(to): _link(to, sent) for to, sent in links.items()}
    _name_shapes(described["components"]["schemas"])


def _add_keys(route: str, operation: Json) -> None:
    """A service may have none: then nothing is asked for."""
    need = {name.replace(":path", ""): need for name, need in NEEDS.items()}[route]
    if need is NOTHING:
        return
    operation["security"] = [{}, *({name: []} for name in KEYS)]
    scopes = " or ".join(sorted(need.scopes))
    operation["description"] = f"{operation.get('description', '')} A key needs the scope {scopes}.".strip()
    for status, refusal in refusals(errors.Unauthenticated, errors.Forbidden).items():
        operation["responses"].setdefault(str(status), refusal)


def _add_refusals(way: str, operation: Json) -> None:
    """FastAPI documents its own form of a 422, which nobody gets to see here."""
    deletes = (errors.NoSpace,) if way == "delete" else ()
    kinds = (*ALWAYS, *deletes, *(OF_BODIES if "requestBody" in operation else ()))
    own = operation["responses"].pop("422", None)
    for status, refusal in refusals(*kinds, *((errors.Invalid,) if own else ())).items():
        operation["responses"].setdefault(str(status), refusal)


def _link(to: str, sent: Json) -> Json:
    """What a POST takes beside its path goes into its body."""
    way, path = to.split()
    in_body = {name: value for name, value in sent.items() if way == "post" and f"{{{name}}}" not in path}
    link: Json = {"operationRef": f"#/paths/{path.replace('/', '~1')}/{way}"}
    if in_body:
        return link | {"requestBody": in_body}
    return link | {"parameters": sent}


def _title(to: str) -> str:
    return "-".join(re.findall(r"[a-z]+", to))


def _name_shapes(shapes: Json) -> None:
    """Those that no signature of a route names, in place of FastAPI's own."""
    _, named = models_json_schema([(Problem, "serialization"), (IngestBody, "validation")], ref_template=REFERENCE)
    shapes.update(named["$defs"])
    for each in ("HTTPValidationError", "ValidationError"):
        shapes.pop(each, None)
