"""GET /docs: the OpenAPI as a page. It has no script and asks nobody for anything, so that nothing can run in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from app.api.deps import StrictRoute

Json = dict[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222 }
code { font: 13px ui-monospace, monospace } summary { cursor: pointer; padding: .3rem 0 }
details { border-bottom: 1px solid #ddd } details > :not(summary) { margin-left: 1.2rem }
table { border-collapse: collapse; margin: .5rem 0 1rem } td { padding: .15rem 1rem .15rem 0; vertical-align: top }
b { display: inline-block; min-width: 4.5rem }
"""

POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

router = APIRouter(route_class=StrictRoute, include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> Response:
    schema = request.app.openapi()
    return Response(page(schema), media_type="text/html", headers={"Content-Security-Policy": POLICY})


def page(schema: Json) -> str:
    title = escape(schema["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title} {escape(schema['info']['version'])}</h1><p>{escape(schema['info']['description'])} "
        '<a href="openapi.json">openapi.json</a> is the same for programs.</p>'
        f"{''.join(_operations(schema['paths']))}<h2>Shapes</h2>{''.join(_shapes(schema['components']['schemas']))}"
    )


def _operations(paths: Json) -> Iterator[str]:
    tag = None
    for path, ways in paths.items():
        for way, told in ways.items():
            if told["tags"][0] != tag:
                tag = told["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            title = f"<b>{way.upper()}</b> <code>{escape(path)}</code> {escape(told['summary'])}"
            yield (
                f"<details><summary>{title}</summary>"
                f"<p>{escape(told.get('description', ''))}</p>{_rows(_given(told))}{_rows(_answers(told))}</details>"
            )


def _given(told: Json) -> Iterator[list[str]]:
    for each in told.get("parameters", ()):
        yield [f"<code>{escape(each['name'])}</code>", f"in {each['in']}", _kind(each["schema"]), _about(each)]
    for kind, content in told.get("requestBody", {}).get("content", {}).items():
        yield ["body", f"<code>{escape(kind)}</code>", _kind(content["schema"]), _about(content["schema"])]


def _answers(told: Json) -> Iterator[list[str]]:
    for status, each in told["responses"].items():
        kinds = {_kind(content.get("schema", {})) for content in each.get("content", {}).values()}
        yield [status, escape(each["description"]), " or ".join(sorted(kinds))]


def _shapes(shapes: Json) -> Iterator[str]:
    for name, shape in shapes.items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        yield f"<p>{_about(shape)}</p>{_rows(_fields(shape))}</details>"


def _fields(shape: Json) -> Iterator[list[str]]:
    for name, field in shape.get("properties", {}).items():
        known = orjson.dumps(field["default"]).decode() if "default" in field else ""
        usual = f"by default <code>{escape(known)}</code>" if known else ""
        usual = "required" if name in shape.get("required", ()) else usual
        yield [f"<code>{escape(name)}</code>", _kind(field), usual, _about(field)]


def _kind(schema: Json) -> str:
    """What a value is, in words; a shape of its own is a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_kind(each) for each in several)
    if "const" in schema or "enum" in schema:
        return " or ".join(f"<code>{escape(str(each))}</code>" for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {})) or 'anything'}"
    return escape(str(schema.get("type", "")))


def _about(told: Json) -> str:
    return escape(told.get("description", ""))


def _rows(rows: Iterator[list[str]]) -> str:
    made = "".join(f"<tr><td>{'<td>'.join(cells)}" for cells in rows)
    return f"<table>{made}</table>" if made else ""
