"""What schemathesis is taught of Winnow: how NDJSON looks, and that an answer has no field that its schema lacks."""

from __future__ import annotations

from typing import Any

import orjson
import schemathesis
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT
DOCUMENTS = st.fixed_dictionaries(
    {"text": TEXT},
    optional={
        "id": TEXT,
        "title": TEXT,
        "format": st.sampled_from(["plain", "markdown", "pdf"]),
        "metadata": st.dictionaries(TEXT, VALUES | st.lists(VALUES, max_size=3), max_size=3),
    },
)
LINES = DOCUMENTS.map(orjson.dumps) | st.binary(max_size=40) | st.just(b"")
BODIES = st.builds(bytes.join, st.sampled_from([b"\n", b"\r\n"]), st.lists(LINES, max_size=8))

schemathesis.openapi.media_type("application/x-ndjson", BODIES)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Clients may meet new fields; we may not meet ours that nobody described."""
    for shape in raw_schema["components"]["schemas"].values():
        if "properties" in shape:
            shape["additionalProperties"] = False
    created = raw_schema["paths"]["/collections"]["post"]["responses"]["201"]
    to_ingest = created["links"]["post-ingest"]
    to_ingest["parameters"] = to_ingest.pop("requestBody")  # it would become the body of NDJSON too


@schemathesis.check
def pointers_lead_somewhere(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A fault in a JSON body names a part that was sent, or one that is missing in a part that was."""
    if response.status_code == 422 and case.media_type == "application/json":
        for fault in response.json().get("errors", ()):
            *within, _ = fault["pointer"].split("/")[1:] or [""]
            asked = {"query", "path"} & set(within[:1])
            assert asked or _leads(case.body, within), f"{fault['pointer']} leads nowhere"


def _leads(place: Any, parts: list[str]) -> bool:
    for part in parts:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            place = place[int(name) if isinstance(place, list) else name]
        except (KeyError, ValueError, IndexError, TypeError):
            return False
    return True
