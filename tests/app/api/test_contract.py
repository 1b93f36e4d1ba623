"""The OpenAPI as a client's generator reads it. Whether the service keeps to it, loadtest/fuzz.py asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.api.contract import LINKS
from app.main import create_app
from tests.app.serving import Json, Service, fakes, problem


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return create_app(fakes(tmp_path_factory.mktemp("contract"))).openapi()


def operations(described: Json) -> dict[str, Json]:
    return {f"{way} {path}": each for path, ways in described["paths"].items() for way, each in ways.items()}


def found(within: Any, name: str) -> Iterator[str]:
    """All values of this name, however deep."""
    if isinstance(within, dict):
        yield from (value for key, value in within.items() if key == name)
    for each in within.values() if isinstance(within, dict) else within if isinstance(within, list) else ():
        yield from found(each, name)


def at(described: Json, pointer: str) -> Any:
    place: Any = described
    for part in pointer.removeprefix("#/").split("/"):
        place = place[part.replace("~1", "/")]
    return place


def test_whatever_is_referred_to_is_there(described: Json) -> None:
    pointers = [*found(described, "$ref"), *found(described, "operationRef")]
    assert len(pointers) > 100
    assert all(at(described, pointer) for pointer in pointers)


def test_every_operation_tells_what_can_go_wrong_in_the_form_that_problems_have(described: Json) -> None:
    for name, operation in operations(described).items():
        refused = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {"429", "500", "503"} <= set(refused), name
        assert ("422" in refused) == ("requestBody" in operation or "parameters" in operation), name
        forms = {status: set(answer["content"]) for status, answer in refused.items()}
        assert all(form == {"application/problem+json"} for status, form in forms.items() if name != "get /readyz"), (
            name
        )


def test_every_field_that_a_caller_may_send_is_told_about(described: Json) -> None:
    bodies = {name: each for name, each in described["components"]["schemas"].items() if name.endswith("Body")}
    assert {"SearchBody", "DocumentBody", "CollectionBody", "EmbedBody"} <= set(bodies)
    untold = [
        f"{name}.{field}"
        for name, body in bodies.items()
        for field, told in body.get("properties", {}).items()
        if not told.get("description")
    ]
    assert not untold


def test_an_operation_with_a_body_says_that_it_may_be_too_long_too_slow_or_no_json(described: Json) -> None:
    taking = {name: each["responses"] for name, each in operations(described).items() if "requestBody" in each}
    assert {"post /ingest", "post /ingest/files", "post /search"} <= set(taking)
    assert all({"400", "408", "413", "422"} <= set(answers) for answers in taking.values())


def test_an_answer_leads_to_what_can_be_asked_with_it(described: Json) -> None:
    answers = operations(described)
    for (name, status), links in LINKS.items():
        assert len(answers[name]["responses"][status]["links"]) == len(links)
    assert answers["post /ingest"]["responses"]["200"]["links"]["get-documents-document"] == {
        "operationRef": "#/paths/~1documents~1{document}/get",
        "parameters": {"collection": "$response.body#/collection", "document": "$response.body#/documents/0/id"},
    }
    assert answers["post /collections"]["responses"]["201"]["links"]["post-search"] == {
        "operationRef": "#/paths/~1search/post",
        "requestBody": {"collection": "$response.body#/name"},
    }


@pytest.mark.parametrize(
    ("path", "ways"),
    [
        ("/collections", "GET, POST"),
        ("/collections/default/calibration", "GET, PUT, DELETE"),
        ("/documents/a", "GET, PATCH, DELETE"),
        ("/documents/delete", "GET, POST, PATCH, DELETE"),
        ("/search", "POST"),
        ("/healthz", "GET, HEAD"),
    ],
)
async def test_a_method_that_a_path_lacks_is_refused_with_all_that_it_has(
    service: Service, path: str, ways: str
) -> None:
    answer = await service.client.request("TRACE", path)
    problem(answer, 405, "http")
    assert answer.headers["allow"] == ways


def test_the_description_is_made_once(tmp_path: Path) -> None:
    app = create_app(fakes(tmp_path))
    assert app.openapi() is app.openapi()
