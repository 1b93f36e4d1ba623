"""Whatever is sent, the answer says what to change, and it is never a failure of ours."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.app.serving import Json, Service, body, fakes, pointers, problem, serving

JSON = {"content-type": "application/json"}


def nested(depth: int) -> Json:
    found: Json = {"leaf": 1}
    for _ in range(depth):
        found = {"a": found}
    return found


BAD_JSON: dict[str, bytes] = {
    "cut short": b'{"query": "x"',
    "not JSON": b"query=x",
    "no number": b'{"query": "x", "min_score": NaN}',
    "infinity": b'{"query": "x", "min_score": -Infinity}',
    "half a surrogate pair": b'{"query": "\\ud800"}',
    "halves the wrong way round": b'{"query": "\\udc00\\ud800"}',
    "bytes that are not UTF-8": b'{"query": "\xff"}',
    "a raw control character": b'{"query": "a\x01"}',
    "lists without end": b"[" * 100_000,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects in a filter": b'{"query": "x", "filter": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "a byte order mark": b'\xef\xbb\xbf{"query": "x"}',
    "more after the end": b'{"query": "x"} {}',
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON.keys())
@pytest.mark.parametrize("path", ["/search", "/ingest", "/documents/delete", "/collections"])
async def test_what_is_not_json_is_malformed(service: Service, path: str, content: bytes) -> None:
    told = problem(await service.client.post(path, content=content, headers=JSON), 400, "malformed")
    assert "not valid JSON" in told["detail"]


BAD_SEARCHES: dict[str, tuple[Any, list[str]]] = {
    "no query": ({}, ["/query"]),
    "unknown fields": ({"query": "x", "topk": 1, "a/b~": 2}, ["/topk", "/a~1b~0"]),
    "a number as query": ({"query": 5}, ["/query"]),
    "null as query": ({"query": None}, ["/query"]),
    "an empty query": ({"query": ""}, ["/query"]),
    "a blank query": ({"query": " \n\t\u2003"}, ["/query"]),
    "a control character": ({"query": "a\u0000b"}, ["/query"]),
    "an escape character": ({"query": "a\u001bb"}, ["/query"]),
    "a string as number": ({"query": "x", "top_k": "10"}, ["/top_k"]),
    "true as number": ({"query": "x", "top_k": True}, ["/top_k"]),
    "a fraction": ({"query": "x", "top_k": 1.5}, ["/top_k"]),
    "a number as truth": ({"query": "x", "rerank": 1}, ["/rerank"]),
    "a string as truth": ({"query": "x", "exact": "yes"}, ["/exact"]),
    "none at all": ({"query": "x", "top_k": 0}, ["/top_k"]),
    "a negative number": ({"query": "x", "candidates": -1}, ["/candidates"]),
    "a billion": ({"query": "x", "top_k": 10**9}, ["/top_k"]),
    "beyond 64 bits": ({"query": "x", "top_k": 10**15}, ["/top_k"]),
    "a billion candidates": ({"query": "x", "candidates": 10**9}, ["/candidates"]),
    "a list as filter": ({"query": "x", "filter": []}, ["/filter"]),
    "a string as score": ({"query": "x", "min_score": "1"}, ["/min_score"]),
    "an unknown part": ({"query": "x", "include": ["text", "vectors"]}, ["/include/1"]),
    "a list": ([], [""]),
    "a string": ("x", [""]),
    "null": (None, [""]),
    "several at once": ({"query": " ", "top_k": 10**9, "candidates": 10**9}, ["/query", "/top_k", "/candidates"]),
}


@pytest.mark.parametrize(("request_body", "expected"), BAD_SEARCHES.values(), ids=BAD_SEARCHES.keys())
async def test_a_search_that_can_not_be_carried_out_is_refused_at_the_bad_part(
    service: Service, request_body: Any, expected: list[str]
) -> None:
    answer = await service.client.post("/search", content=orjson.dumps(request_body), headers=JSON)
    told = problem(answer, 422, "invalid")
    assert sorted(pointers(answer)) == sorted(expected)
    assert all(each["detail"] for each in told["errors"])


BAD_DOCUMENTS: dict[str, tuple[Json, str]] = {
    "no text": ({"id": "a"}, "/text"),
    "a number as text": ({"text": 1}, "/text"),
    "a blank text": ({"text": " \n"}, "/text"),
    "a control character": ({"text": "a\u0008"}, "/text"),
    "a control character in the title": ({"text": "a", "title": "\u0000"}, "/title"),
    "a number as id": ({"text": "a", "id": 7}, "/id"),
    "an empty id": ({"text": "a", "id": ""}, "/id"),
    "spaces around the id": ({"text": "a", "id": " a"}, "/id"),
    "a line break in the id": ({"text": "a", "id": "a\nb"}, "/id"),
    "a step up the path as id": ({"text": "a", "id": ".."}, "/id"),
    "an id of 10 kB": ({"text": "a", "id": "x" * 10_000}, "/id"),
    "a title of 10 kB": ({"text": "a", "title": "x" * 10_000}, "/title"),
    "a list as metadata": ({"text": "a", "metadata": []}, "/metadata"),
    "null as metadata": ({"text": "a", "metadata": None}, "/metadata"),
    "an empty key": ({"text": "a", "metadata": {"": 1}}, "/metadata/"),
    "a dollar in a key": ({"text": "a", "metadata": {"$eq": 1}}, "/metadata/$eq"),
    "a dot in a key": ({"text": "a", "metadata": {"x": [{"a.b": 1}]}}, "/metadata/x/0/a.b"),
    "a very large number": ({"text": "a", "metadata": {"n": 2**64 - 1, "m": [1e308 * 1]}, "x": 1}, "/x"),
    "100,000 keys": ({"text": "a", "metadata": {f"k{i}": i for i in range(100_000)}}, "/metadata"),
    "a metadata bomb": ({"text": "a", "metadata": nested(200)}, "/metadata" + "/a" * 8),
    "a long value": ({"text": "a", "metadata": {"v": "x" * 100_000}}, "/metadata"),
    "an unknown field": ({"text": "a", "Metadata": {}}, "/Metadata"),
}


@pytest.mark.parametrize(("document", "pointer"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS.keys())
async def test_a_document_that_can_not_be_kept_is_refused_at_the_bad_part(
    service: Service, document: Json, pointer: str
) -> None:
    answer = await service.client.post("/ingest", json={"documents": [{"text": "fine"}, document]})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert pointers(answer)[0] == f"/documents/1{pointer}"
    line = await service.client.post(
        "/ingest", content=orjson.dumps(document), headers={"content-type": "application/x-ndjson"}
    )
    told = orjson.loads(line.text.splitlines()[0])
    assert told["errors"][0]["pointer"] == pointer
    assert body(await service.client.get("/collections/default"))["documents"] == 0


async def test_metadata_nested_a_thousand_levels_deep_is_refused(service: Service) -> None:
    for depth in (254, 900, 1000, 1023, 1024, 2000):
        metadata = b'{"a":' * depth + b"1" + b"}" * depth
        content = b'{"documents": [{"text": "x", "metadata": ' + metadata + b"}]}"
        answer = await service.client.post("/ingest", content=content, headers=JSON)
        assert answer.status_code in (400, 422), depth
        assert answer.headers["content-type"] == "application/problem+json"


async def test_too_much_at_once_is_refused_by_the_settings(tmp_path: Path) -> None:
    small = fakes(tmp_path, max_body_bytes=5000, max_query_chars=100, max_text_chars=50, max_top_k=5, max_candidates=7)
    async with serving(small) as service:
        post = service.client.post
        problem(await post("/search", json={"query": "x" * 10_000_000}), 413, "too-large")
        problem(await post("/ingest", json={"documents": [{"text": "x" * 10_000}]}), 413, "too-large")
        problem(await post("/documents/delete", json={"ids": ["x" * 10_000]}), 413, "too-large")
        told = problem(await post("/search", json={"query": "x" * 101}), 422, "invalid")
        assert told["errors"] == [{"pointer": "/query", "detail": "is 101 characters; at most 100 are allowed"}]
        problem(await post("/ingest", json={"documents": [{"text": "x" * 51}]}), 422, "invalid-documents")
        problem(await post("/search", json={"query": "x", "top_k": 6}), 422, "invalid")
        problem(await post("/search", json={"query": "x", "candidates": 8}), 422, "invalid")
        await service.search("x" * 100, top_k=5, candidates=7)


async def test_a_query_of_ten_megabytes_is_refused(service: Service) -> None:
    answer = await service.client.post("/search", json={"query": "x" * 10_000_000})
    problem(answer, 422, "invalid")
    assert pointers(answer) == ["/query"]


async def test_a_filter_with_too_many_conditions_is_refused(service: Service) -> None:
    condition = {"$or": [{"n": i} for i in range(1000)]}
    answer = await service.client.post("/search", json={"query": "x", "filter": condition})
    problem(answer, 422, "invalid-filter")
    assert len(pointers(answer)) == 1


async def test_the_number_of_faults_that_are_told_has_an_end(service: Service) -> None:
    answer = await service.client.post("/ingest", json={"documents": [{"text": ""}] * 5000})
    told = problem(answer, 422, "invalid-documents")
    assert len(told["errors"]) == 100
    assert "5000" in told["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("POST", "/"), ("GET", "/documents/none"), ("DELETE", "/documents/none"), ("GET", "/jobs/x"),
     ("GET", "/collections/none"), ("DELETE", "/collections/none"), ("GET", "/documents/a%00b"),
     ("GET", "/documents/%ED%A0%80"), ("GET", "/documents/x?collection=none")],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(service: Service, method: str, path: str) -> None:
    answer = await service.client.request(method, path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/search"), ("PUT", "/ingest"), ("PUT", "/documents/a"), ("POST", "/healthz"), ("DELETE", "/jobs/x")],
)
async def test_a_wrong_method_says_which_is_right(service: Service, method: str, path: str) -> None:
    answer = await service.client.request(method, path)
    problem(answer, 405, "http")
    assert answer.headers["allow"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""])
@pytest.mark.parametrize("path", ["/search", "/ingest", "/collections"])
async def test_a_wrong_content_type_is_refused(service: Service, path: str, kind: str) -> None:
    answer = await service.client.post(path, content=b'{"query": "x"}', headers={"content-type": kind})
    assert answer.status_code in (400, 415, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_no_body_at_all_is_refused(service: Service) -> None:
    for path in ("/search", "/ingest", "/documents/delete", "/collections"):
        answer = await service.client.post(path)
        assert answer.status_code in (400, 422), path
        assert answer.headers["content-type"] == "application/problem+json"


async def test_bad_query_parameters_are_refused(service: Service) -> None:
    answer = await service.client.post(
        "/ingest?wait=perhaps", content=b"{}", headers={"content-type": "application/x-ndjson"}
    )
    problem(answer, 422, "invalid")


async def test_problems_are_counted_by_kind(service: Service) -> None:
    await service.client.post("/search", json={"query": ""})
    await service.client.get("/nowhere")
    await service.client.get("/jobs/none")
    kinds = {kind: service.sample("winnow_errors_total", kind=kind) for kind in ("invalid", "http", "not-found")}
    assert kinds == {"invalid": 1, "http": 1, "not-found": 1}


CHOICES: dict[str, tuple[Json, list[str]]] = {
    "nothing said": ({}, [""]),
    "both said": ({"ids": ["a"], "filter": {"a": 1}}, [""]),
    "everything": ({"filter": {}}, ["/filter"]),
    "a string as ids": ({"ids": "a"}, ["/ids"]),
    "too many ids": ({"ids": ["a"] * 10_001}, ["/ids"]),
}


@pytest.mark.parametrize(("request_body", "expected"), CHOICES.values(), ids=CHOICES.keys())
async def test_what_does_not_say_clearly_which_documents_is_refused(
    service: Service, request_body: Json, expected: list[str]
) -> None:
    for path, more in (("/documents/delete", {}), ("/documents/update", {"metadata": {"a": 1}})):
        answer = await service.client.post(path, json=request_body | more)
        problem(answer, 422, "invalid")
        assert pointers(answer) == expected


numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
names = ["$and", "$or", "$not", "$eq", "$in", "$gt", "$exists", "a", "a.b", "", "id"]
keys = st.sampled_from(names) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)
search_bodies = st.fixed_dictionaries(
    {"query": st.text(max_size=20) | values},
    optional={
        "top_k": st.integers(-1, 2000) | values,
        "candidates": st.integers(-1, 60) | values,
        "filter": st.dictionaries(keys, values, max_size=3) | values,
        "rerank": st.booleans() | values,
        "exact": st.booleans() | values,
        "min_score": scalars,
        "include": st.lists(st.sampled_from(["text", "stages"])) | values,
        "collection": st.just("default") | values,
    },
)
document_bodies = st.fixed_dictionaries(
    {"text": st.text(max_size=60) | values},
    optional={
        "id": st.text(max_size=10) | values,
        "title": st.text(max_size=20) | values,
        "metadata": st.dictionaries(keys, values, max_size=4) | values,
    },
)
ingest_bodies = st.fixed_dictionaries(
    {"documents": st.lists(document_bodies, max_size=4) | values},
    optional={"wait": st.booleans(), "collection": values},
)


def as_json(value: object) -> bytes:
    """As any client may write it: half surrogates escaped, which orjson would refuse to write."""
    return json.dumps(value).encode()


async def test_no_body_whatever_makes_the_service_fail(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        loop = asyncio.get_running_loop()

        async def post(path: str, content: object) -> httpx.Response:
            return await service.client.post(path, content=as_json(content), headers=JSON)

        def send(path: str, content: object) -> None:
            answer = asyncio.run_coroutine_threadsafe(post(path, content), loop).result(20)
            assert answer.status_code < 500
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert body(answer)["detail"]
            elif path == "/search":
                assert all(math.isfinite(hit["score"]) for hit in body(answer)["hits"])

        @settings(max_examples=150)
        @given(st.tuples(st.just("/search"), search_bodies) | st.tuples(st.just("/ingest"), ingest_bodies))
        def fuzz(sent: tuple[str, Any]) -> None:
            send(*sent)

        @settings(max_examples=50)
        @given(document_bodies, st.dictionaries(keys, values, max_size=2))
        def keep(document: Json, condition: Json) -> None:
            send("/ingest", {"documents": [document]})
            send("/search", {"query": "a", "filter": condition})
            send("/documents/delete", {"filter": condition})

        await asyncio.to_thread(fuzz)
        await asyncio.to_thread(keep)
        assert service.sample("winnow_errors_total", kind="internal") == 0


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_does_not_say_that_it_is_json_is_told_which_header_to_send(
    service: Service, kind: str | None
) -> None:
    headers = {"content-type": kind} if kind else {}
    for path in ("/search", "/collections", "/documents/delete", "/rerank"):
        answer = await service.client.post(path, content=b'{"query": "x"}', headers=headers)
        told = problem(answer, 415, "unsupported-type")
        assert "content-type: application/json" in told["detail"], path


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "multipart/form-data; boundary=x"])
async def test_a_packed_body_is_told_to_come_as_it_is(service: Service, kind: str) -> None:
    path = "/ingest/files" if kind.startswith("multipart") else "/ingest"
    headers = {"content-type": kind, "content-encoding": "gzip"}
    answer = await service.client.post(path, content=gzip.compress(b'{"text": "x"}'), headers=headers)
    assert "without content-encoding" in problem(answer, 415, "unsupported-type")["detail"]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
async def test_a_body_that_says_that_it_is_not_packed_is_read(service: Service, coding: str) -> None:
    answer = await service.client.post("/search", json={"query": "x"}, headers={"content-encoding": coding})
    assert answer.status_code == 200


async def test_a_path_or_a_method_that_is_not_there_is_told_what_there_is(service: Service) -> None:
    told = problem(await service.client.post("/prefix/search", json={"query": "x"}), 404, "http")
    assert told["detail"] == "There is nothing at /prefix/search: GET /docs shows what there is."
    told = problem(await service.client.get("/search"), 405, "http")
    assert told["detail"] == "/search takes POST, not GET."


async def test_a_parameter_that_would_have_named_a_collection_in_vain_is_refused(service: Service) -> None:
    await service.ingest({"id": "a", "text": "words"})
    await service.client.post("/collections", json={"name": "docs"})
    body = {"documents": [{"text": "words"}]}
    form = {"files": {"files": ("a.md", b"# words")}}
    lines = {"content": b'{"text": "words"}', "headers": {"content-type": "application/x-ndjson"}}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/search?collection=docs", {"json": {"query": "words"}}),
        ("POST", "/ingest?collection=docs", {"json": body}),
        ("POST", "/ingest?colection=docs", lines),
        ("POST", "/ingest/files?collection=docs", form),
        ("POST", "/documents/delete?collection=docs", {"json": {"ids": ["a"]}}),
        ("GET", "/documents/a?colection=docs", {}),
        ("DELETE", "/documents/a?colection=docs", {}),
    ]
    for method, path, request in asked:
        answer = await service.client.request(method, path, **request)
        problem(answer, 422, "invalid")
        assert pointers(answer) == [f"/query/{path.partition('?')[2].partition('=')[0]}"], path
    listed = (await service.client.post("/documents/list", json={})).json()["documents"]
    assert [each["id"] for each in listed] == ["a"]


async def test_clients_of_other_services_and_probes_may_say_more_than_is_asked(service: Service) -> None:
    for path in ("/v1/models?api-version=1", "/healthz?t=1", "/readyz?t=1", "/metrics?t=1"):
        assert (await service.client.get(path)).status_code == 200, path
