"""Who may ask what, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from app.api.access import NEEDS, NOTHING
from app.api.deps import StrictRoute
from app.api.health import UNTOLD
from app.caller import SCOPES, Scope
from app.errors import StartupError, Unauthenticated
from app.main import create_app
from app.service.access import Access
from app.stores.keys import KeyFile
from tests.app.serving import PATIENCE, Service, body, documents, fakes, nothing_opened, problem, serving, until


def keyed(data_dir: Path, *scopes: Scope, collections: Sequence[str] = ()) -> dict[str, str]:
    """Headers with a new key."""
    _, shown = KeyFile(data_dir / "keys.json").create("test", scopes, collections, None)
    return {"authorization": f"Bearer {shown}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """A key for each scope, and one of each kind that is limited to the collections `mine` and `new`."""
    data_dir = tmp_path_factory.mktemp("keyed")
    whole = {scope: keyed(data_dir, scope) for scope in SCOPES}
    return (
        {"data_dir": data_dir}
        | whole
        | {(scope, "mine"): keyed(data_dir, scope, collections=["mine", "new"]) for scope in SCOPES}
    )


@pytest.fixture
async def guarded(keys: dict[Any, Any], tmp_path: Path) -> AsyncIterator[Service]:
    """A service with these keys, and with documents in the collections `mine` and `theirs`."""
    async with serving(fakes(tmp_path, keys=keys["data_dir"] / "keys.json", observe_share=0.1)) as service:
        for name in ("mine", "theirs"):
            answer = await service.client.post("/collections", json={"name": name}, headers=keys["admin"])
            assert answer.status_code == 201, answer.text
            held = {"documents": documents(2), "collection": name}
            assert (await service.client.post("/ingest", json=held, headers=keys["admin"])).status_code == 200
        yield service


def test_every_route_says_who_may_ask_and_the_documentation_says_so_too() -> None:
    paths = create_app(fakes(Path("nowhere"))).openapi()["paths"]
    described = {f"{way.upper()} {path}": told for path, ways in paths.items() for way, told in ways.items()}
    needs = {route.replace(":path", ""): need for route, need in NEEDS.items() if route != "GET /docs"}
    assert described.keys() == needs.keys()
    for route, told in described.items():
        assert ("401" in told["responses"]) == ("security" in told) == (needs[route] is not NOTHING), route
        assert all(scope in told["description"] for scope in needs[route].scopes), route


def test_a_route_that_does_not_say_who_may_ask_can_not_be_made() -> None:
    async def anything() -> None: ...

    with pytest.raises(LookupError, match="Nobody may ask GET /anything yet"):
        StrictRoute("/anything", anything, methods=["GET"])


def test_nothing_but_signs_of_life_is_there_for_everybody() -> None:
    assert {route for route, need in NEEDS.items() if need is NOTHING} == {"GET /healthz", "GET /readyz", "GET /docs"}


async def test_without_a_key_every_route_is_closed_before_it_reads_a_body(guarded: Service) -> None:
    for route, need in NEEDS.items():
        method, path = route.replace("{document:path}", "x").replace("{name}", "mine").replace("{job}", "x").split()
        if need is NOTHING:
            assert (await guarded.client.request(method, path)).status_code == 200
            continue
        told = problem(await guarded.client.request(method, path, content=b"{"), 401, "unauthenticated")
        assert "Authorization: Bearer" in told["detail"]


async def test_a_key_opens_the_routes_of_its_scopes_and_no_others(guarded: Service, keys: dict[Any, Any]) -> None:
    """A body that is no JSON is noticed behind the door alone."""
    for route, need in NEEDS.items():
        method, path = route.replace("{document:path}", "x").replace("{name}", "none").replace("{job}", "x").split()
        for scope in SCOPES:
            answer = await guarded.client.request(method, path, content=b"{", headers=keys[scope])
            allowed = need is NOTHING or scope == "admin" or scope in need.scopes
            assert (answer.status_code != 403) == allowed, (route, scope, answer.text)
            assert answer.status_code != 401
            if not allowed:
                told = problem(answer, 403, "forbidden")
                assert all(each in told["detail"] for each in need.scopes)
                assert "insufficient_scope" in answer.headers["www-authenticate"]


NO_KEYS: list[dict[str, Any]] = [
    {"authorization": "Bearer none"},
    {"authorization": "Bearer"},
    {"authorization": "Basic YTpi"},
    {"authorization": "Bearer winnow__"},
    {"x-api-key": "winnow_0123456789ab_x"},
    {"x-api-key": b"\xff"},
]


async def test_what_is_not_a_key_is_refused_and_told_how_to_ask(guarded: Service) -> None:
    for headers in NO_KEYS:
        answer = await guarded.client.post("/search", json={"query": "topic"}, headers=headers)
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_comes_in_either_header(guarded: Service, keys: dict[Any, Any]) -> None:
    key = keys["search"]["authorization"].removeprefix("Bearer ")
    for headers in ({"x-api-key": key}, {"authorization": f"bearer {key}"}):
        answer = await guarded.client.post("/search", json={"query": "topic", "collection": "mine"}, headers=headers)
        assert answer.status_code == 200, answer.text


async def test_other_services_clients_are_told_in_their_way(guarded: Service) -> None:
    answer = await guarded.client.post("/v2/rerank", json={"query": "a", "documents": ["a"]})
    assert body(answer)["message"] == problem(answer, 401, "unauthenticated")["detail"]


def alike(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether two answers tell apart what they were asked for."""
    first, second = ({**body(each), "request_id": ""} for each in (one, other))
    told = {name: str(value).replace("theirs", "nowhere") for name, value in first.items()}
    return one.status_code == other.status_code and told == {name: str(value) for name, value in second.items()}


BY_COLLECTION: list[tuple[Scope, str, str, Any]] = [
    ("search", "POST", "/search", {"query": "topic", "collection": "NAME"}),
    ("search", "GET", "/documents/d0?collection=NAME", None),
    ("search", "GET", "/collections/NAME", None),
    ("search", "GET", "/collections/NAME/calibration", None),
    ("ingest", "POST", "/ingest", {"documents": [{"text": "a"}], "collection": "NAME"}),
    ("ingest", "POST", "/ingest/files/known", {"files": [], "collection": "NAME"}),
    ("ingest", "POST", "/documents/update", {"ids": ["d0"], "metadata": {"a": 1}, "collection": "NAME"}),
    ("ingest", "PATCH", "/documents/d0?collection=NAME", {"metadata": {"a": 1}}),
    ("ingest", "POST", "/documents/delete", {"ids": ["d0"], "collection": "NAME"}),
    ("ingest", "DELETE", "/documents/d0?collection=NAME", None),
    ("admin", "DELETE", "/collections/NAME", None),
    ("admin", "DELETE", "/collections/NAME/calibration", None),
    ("admin", "POST", "/collections", {"name": "NAME"}),
]


async def test_a_forbidden_collection_looks_like_one_that_is_not_there(guarded: Service, keys: dict[Any, Any]) -> None:
    async def ask(scope: Scope, method: str, path: str, content: Any, name: str) -> httpx.Response:
        said = {each: name if value == "NAME" else value for each, value in content.items()} if content else None
        return await guarded.client.request(method, path.replace("NAME", name), json=said, headers=keys[scope, "mine"])

    for route in BY_COLLECTION:
        theirs, nowhere = await ask(*route, "theirs"), await ask(*route, "nowhere")
        assert theirs.status_code in (403, 404), route
        assert alike(theirs, nowhere), route
    left = await guarded.client.get("/collections/theirs", headers=keys["admin"])
    assert body(left)["documents"] == 2


async def test_a_limited_key_works_in_its_own_collections(guarded: Service, keys: dict[Any, Any]) -> None:
    client = guarded.client
    shown = body(await client.get("/collections", headers=keys["search", "mine"]))["collections"]
    assert [each["name"] for each in shown] == ["mine"]
    found = await client.post("/search", json={"query": "topic", "collection": "mine"}, headers=keys["search", "mine"])
    assert len(body(found)["hits"]) == 2
    assert (await client.post("/collections", json={"name": "new"}, headers=keys["admin", "mine"])).status_code == 201
    assert (await client.delete("/collections/new", headers=keys["admin", "mine"])).status_code == 204


async def test_a_job_of_a_forbidden_collection_is_not_there(guarded: Service, keys: dict[Any, Any]) -> None:
    held = {"documents": documents(1), "collection": "theirs"}
    job = body(await guarded.client.post("/ingest", json=held, headers=keys["ingest"]))["job"]
    assert (await guarded.client.get(f"/jobs/{job}", headers=keys["ingest"])).status_code == 200
    problem(await guarded.client.get(f"/jobs/{job}", headers=keys["ingest", "mine"]), 404, "not-found")


async def test_metrics_which_name_all_collections_are_not_for_limited_keys(
    guarded: Service, keys: dict[Any, Any]
) -> None:
    assert (await guarded.client.get("/metrics", headers=keys["metrics"])).status_code == 200
    problem(await guarded.client.get("/metrics", headers=keys["admin", "mine"]), 403, "forbidden")


async def test_a_new_key_counts_without_a_restart_and_a_revoked_one_does_not(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.search("anything")
        headers = keyed(tmp_path, "search")
        await until(lambda: service.engine.access.needs_keys)
        problem(await service.client.post("/search", json={"query": "a"}), 401, "unauthenticated")
        KeyFile(tmp_path / "keys.json").revoke("test")
        deadline = monotonic() + PATIENCE
        while (await service.client.post("/search", json={"query": "a"}, headers=headers)).status_code == 200:
            assert monotonic() < deadline, "a revoked key goes on opening"
            await asyncio.sleep(0.1)


def test_a_file_of_keys_that_is_damaged_or_lost_meanwhile_opens_nothing(tmp_path: Path) -> None:
    key = keyed(tmp_path, "search")["authorization"].removeprefix("Bearer ")
    access, file = Access(fakes(tmp_path), private=False), tmp_path / "keys.json"
    file.write_text("{")
    access.look()
    assert access.admit(key).has_key
    with pytest.raises(Unauthenticated):
        access.admit(None)
    file.unlink()
    access.look()
    for presented in (key, None):
        with pytest.raises(Unauthenticated):
            access.admit(presented)


def test_a_file_of_keys_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no keys"):
        Access(fakes(tmp_path, keys=tmp_path / "lost.json"), private=False)


async def test_a_damaged_file_of_keys_keeps_a_service_from_opening(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(StartupError, match="damaged"):
        async with serving(fakes(tmp_path)):
            pass


async def test_who_opens_the_data_in_a_process_of_their_own_needs_no_key(tmp_path: Path) -> None:
    keyed(tmp_path, "search")
    async with serving(fakes(tmp_path), private=True) as service:
        await service.search("anything")


async def test_who_may_not_see_all_is_not_told_why_a_service_is_not_ready(keys: dict[Any, Any], tmp_path: Path) -> None:
    settings = fakes(tmp_path, keys=keys["data_dir"] / "keys.json")
    with nothing_opened():
        async with serving(settings, ready=False) as starting:
            for who in (None, ("search", "mine")):
                answer = await starting.client.get("/readyz", headers=keys.get(who))
                assert (answer.status_code, body(answer)["reasons"]) == (503, [UNTOLD])
            assert UNTOLD not in body(await starting.client.get("/readyz", headers=keys["search"]))["reasons"]


ORIGINS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"host": "127.0.0.1:9000"}, True),
    ({"host": "[::1]:9000"}, True),
    ({"host": "LOCALHOST"}, True),
    ({"host": "localhost:9", "origin": "http://localhost:9"}, True),
    ({"host": "rebound.example"}, False),
    ({"host": "localhost.example:8000"}, False),
    ({"origin": "https://page.example"}, False),
    ({"origin": "null"}, False),
]


async def test_without_keys_a_page_from_elsewhere_can_not_have_a_browser_ask(service: Service) -> None:
    form = {"files": ("a.txt", b"text")}
    for headers, allowed in ORIGINS:
        answer = await service.client.post("/ingest/files", files=form, headers=headers)
        assert answer.status_code == (200 if allowed else 403), (headers, answer.text)


async def test_an_open_service_answers_to_the_names_that_it_is_given(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, open=True)) as service:
        assert (await service.client.get("/collections", headers={"host": "any.example"})).status_code == 200
    async with serving(fakes(tmp_path, open=True, hosts="winnow, localhost")) as service:
        assert (await service.client.get("/collections", headers={"host": "winnow:8000"})).status_code == 200
        problem(await service.client.get("/collections", headers={"host": "any.example"}), 403, "forbidden")


async def test_no_page_elsewhere_is_let_read_an_answer(service: Service) -> None:
    """CORS is closed: no answer allows another origin, preflight or not."""
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    for method, path in (("OPTIONS", "/search"), ("GET", "/collections"), ("POST", "/search"), ("GET", "/docs")):
        answer = await service.client.request(method, path, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_quality_is_told_of_the_collections_that_a_key_sees(guarded: Service, keys: dict[Any, Any]) -> None:
    async def told(key: Any) -> list[str]:
        answer = await guarded.client.get("/quality", headers=keys[key])
        return [each["collection"] for each in body(answer)["collections"]]

    assert await told("search") == ["default", "mine", "theirs"]
    assert await told(("search", "mine")) == ["mine"]
    theirs = await guarded.client.get("/quality?collection=theirs", headers=keys[("search", "mine")])
    problem(theirs, 404, "not-found")
