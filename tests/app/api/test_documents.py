from __future__ import annotations

import asyncio
from pathlib import Path
from threading import get_ident
from typing import Any
from urllib.parse import quote

import pytest

from app.api.schemas import DocumentReply, ListReply
from app.stages.filter import parse
from app.stores import listing
from app.stores.filters import Filter
from tests.app.serving import Json, Service, body, documents, fakes, nothing_embedded, pointers, problem, serving

IDS = [
    "plain",
    "a/b/c",
    "/leading",
    "trailing/",
    "with spaces inside",
    "größer als 日本語 🦜",
    "100%",
    "%2F",
    "a%20b",
    "a?b=c&d#e",
    "a+b",
    "quote\"s'",
    "back\\slash",
    "delete",
    "../../etc/passwd",
    "a//b",
    "*",
    "x" * 512,
]


def path(document: str) -> str:
    return "/documents/" + quote(document, safe="")


@pytest.mark.parametrize("document", IDS, ids=lambda name: name[:20])
async def test_any_id_can_be_kept_got_found_and_deleted(service: Service, document: str) -> None:
    await service.ingest({"id": document, "text": "some words"}, {"id": "other", "text": "more words"})
    assert body(await service.client.get(path(document)))["id"] == document
    assert await service.found("some words", top_k=1) == [document]
    answer = await service.client.delete(path(document))
    assert body(answer) == {"deleted": [document]}
    problem(await service.client.get(path(document)), 404, "not-found")
    assert await service.found("some words") == ["other"]


async def test_a_document_comes_back_as_it_was_given(service: Service) -> None:
    given = {
        "id": "a",
        "text": "  Ein Satz.\r\n\tNoch einer: größer 🦜\f " * 60,
        "title": "Der Titel",
        "metadata": {"n": 1.5, "big": 2**63, "list": [1, [2, {"x": None}]], "leer": {}, "é": "ü", "t": True},
    }
    await service.ingest(given)
    answer = body(await service.client.get("/documents/a"))
    reply = DocumentReply.model_validate(answer, strict=True)
    assert {name: answer[name] for name in given} == given
    assert (reply.state, reply.error, reply.collection) == ("live", None, "default")
    pieces = [reply.text[chunk.start : chunk.end] for chunk in reply.chunks]
    assert len(pieces) > 1
    assert all(piece == piece.strip() and piece for piece in pieces)
    shown = {hit["id"]: hit["text"] for hit in (await service.search("Satz", top_k=100))["hits"]}
    assert shown == {chunk.id: piece for chunk, piece in zip(reply.chunks, pieces, strict=True)}


async def test_the_newest_acknowledged_version_is_shown_whether_it_can_be_found_yet_or_not(service: Service) -> None:
    await service.ingest(*documents(1, "the first version"))
    for number in range(20):
        document = {"id": "d0", "text": f"version {number} " + "and much more " * 300}
        answer = await service.client.post("/ingest", json={"documents": [document], "wait": False})
        assert answer.status_code == 202
        shown = body(await service.client.get("/documents/d0"))
        assert shown["text"] == document["text"]
        assert shown["state"] in ("pending", "live")


async def test_documents_are_deleted_by_ids(service: Service) -> None:
    await service.ingest(*documents(6))
    answer = await service.client.post("/documents/delete", json={"ids": ["d4", "none", "d1", "d1"]})
    assert body(answer) == {"deleted": ["d1", "d4"]}
    assert sorted(await service.found("topic")) == ["d0", "d2", "d3", "d5"]
    again = await service.client.post("/documents/delete", json={"ids": ["d4", "d1"]})
    assert body(again) == {"deleted": []}
    assert body(await service.client.post("/documents/delete", json={"ids": []})) == {"deleted": []}


async def test_documents_are_deleted_by_filter(service: Service) -> None:
    await service.ingest(*documents(6))
    answer = await service.client.post("/documents/delete", json={"filter": {"n": {"$gte": 4}}})
    assert body(answer) == {"deleted": ["d4", "d5"]}
    assert sorted(await service.found("topic")) == ["d0", "d1", "d2", "d3"]
    problem(await service.client.post("/documents/delete", json={"filter": {"n": {"$x": 4}}}), 422, "invalid-filter")


async def test_a_filter_deletes_by_what_a_document_has_become_though_it_is_not_found_yet(service: Service) -> None:
    await service.ingest(*({"id": name, "text": "topic", "metadata": {"state": "expired"}} for name in "ab"))
    valid = {"id": "a", "text": "another topic", "metadata": {"state": "valid"}}
    with nothing_embedded():
        answer = await service.client.post("/ingest", json={"documents": [valid], "wait": False})
        assert body(await service.client.get("/documents/a"))["metadata"] == {"state": "valid"}
        deleted = await service.client.post("/documents/delete", json={"filter": {"state": "expired"}})
    assert body(deleted) == {"deleted": ["b"]}
    await service.finished(body(answer)["job"])
    assert await service.found("topic") == ["a"]
    deleted = await service.client.post("/documents/delete", json={"filter": {"state": "valid"}})
    assert body(deleted) == {"deleted": ["a"]}


async def test_metadata_is_changed_without_the_text(service: Service) -> None:
    said = {"team": "sea", "draft": True, "author": {"name": "Ada", "age": 36}, "tags": ["a", "b"]}
    await service.ingest({"id": "a/b", "text": "topic", "metadata": said}, *documents(2))
    encoded = service.encoded()
    changes = {"draft": None, "author": {"age": 37}, "tags": ["c"], "none": None}
    answer = await service.client.patch("/documents/a/b", json={"metadata": changes})
    assert body(answer) == {"updated": ["a/b"], "unchanged": []}
    shown = body(await service.client.get("/documents/a/b"))["metadata"]
    assert shown == {"team": "sea", "author": {"name": "Ada", "age": 37}, "tags": ["c"]}
    assert await service.found("topic", filter={"author.age": 37, "tags": "c"}) == ["a/b"]
    assert await service.found("topic", filter={"draft": True}) == []
    again = await service.client.patch("/documents/a/b", json={"metadata": changes})
    assert body(again) == {"updated": [], "unchanged": ["a/b"]}
    assert service.encoded() == encoded
    problem(await service.client.patch("/documents/none", json={"metadata": {"a": 1}}), 404, "not-found")


async def test_metadata_of_many_is_changed_by_ids_or_by_filter(service: Service) -> None:
    await service.ingest(*documents(6))
    change = {"metadata": {"state": "old"}}
    answer = await service.client.post("/documents/update", json={"ids": ["d4", "none", "d1", "d1"], **change})
    assert body(answer) == {"updated": ["d4", "d1"], "unchanged": []}
    answer = await service.client.post("/documents/update", json={"filter": {"n": {"$gte": 4}}, **change})
    assert body(answer) == {"updated": ["d5"], "unchanged": ["d4"]}
    assert sorted(await service.found("topic", filter={"state": "old"})) == ["d1", "d4", "d5"]
    assert service.sample("winnow_ingested_documents_total", status="updated") == 3


async def test_a_change_of_metadata_holds_for_what_is_found_and_for_what_takes_its_place(service: Service) -> None:
    await service.ingest({"id": "a", "text": "topic", "metadata": {"seen_by": "all", "n": 1}})
    newer = {"id": "a", "text": "another topic", "metadata": {"seen_by": "all", "n": 2}}
    with nothing_embedded():
        answer = await service.client.post("/ingest", json={"documents": [newer], "wait": False})
        await service.client.patch("/documents/a", json={"metadata": {"seen_by": "few"}})
        (hit,) = (await service.search("topic", filter={"seen_by": "few"}))["hits"]
        assert (hit["text"], hit["metadata"]) == ("topic", {"seen_by": "few", "n": 1})
    await service.finished(body(answer)["job"])
    (hit,) = (await service.search("topic"))["hits"]
    assert (hit["text"], hit["metadata"]) == ("another topic", {"seen_by": "few", "n": 2})


BAD_CHANGES: list[tuple[Any, list[str]]] = [
    ({}, ["/metadata"]),
    ({"a.b": 1}, ["/metadata/a.b"]),
    ({"file": {"path": "x"}}, ["/metadata/file"]),
    ({"long": "x" * 70_000}, ["/metadata"]),
]


async def test_a_change_that_can_not_be_kept_changes_nothing(service: Service) -> None:
    await service.ingest(*documents(2), {"id": "much", "text": "topic", "metadata": {"much": "x" * 60_000}})
    for changes, wrong in BAD_CHANGES:
        answer = await service.client.patch("/documents/d0", json={"metadata": changes})
        problem(answer, 422, "invalid")
        assert pointers(answer) == wrong
    more = {"ids": ["d0", "much"], "metadata": {"more": "x" * 10_000}}
    told = problem(await service.client.post("/documents/update", json=more), 422, "invalid")
    assert "'much'" in told["detail"]
    assert body(await service.client.get("/documents/d0"))["metadata"] == {"n": 0}


async def test_metadata_that_is_more_than_allowed_by_now_can_become_less(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": "topic", "metadata": {"long": "x" * 500, "longer": "x" * 900, "n": 1}})
    async with serving(fakes(tmp_path, max_metadata_bytes=300)) as service:
        for change in ({"longer": None}, {"n": 2}):
            answer = await service.client.patch("/documents/a", json={"metadata": change})
            assert body(answer) == {"updated": ["a"], "unchanged": []}
        problem(await service.client.patch("/documents/a", json={"metadata": {"n": 10}}), 422, "invalid")
        assert body(await service.client.get("/documents/a"))["metadata"] == {"long": "x" * 500, "n": 2}


async def test_deleting_in_one_collection_leaves_the_others_alone(service: Service) -> None:
    await service.client.post("/collections", json={"name": "other"})
    await service.ingest(*documents(3))
    await service.ingest(*documents(3), collection="other")
    await service.client.delete("/documents/d0?collection=other")
    await service.client.post("/documents/delete", json={"filter": {"n": 1}, "collection": "other"})
    assert await service.found("topic", collection="other") == ["d2"]
    assert sorted(await service.found("topic")) == ["d0", "d1", "d2"]


async def test_what_is_deleted_is_never_found_again(tmp_path: Path) -> None:
    """Not by searches that run beside the deletions, not after a restart, from a snapshot or without one."""
    settings = fakes(tmp_path, snapshot_changes=40)
    async with serving(settings) as service:
        await service.ingest(*documents(200))
        gone: set[str] = set()
        over = False

        async def look() -> None:
            while not over:
                before = set(gone)
                assert not before & set(await service.found("topic of words", top_k=200, rerank=False))

        lookers = [asyncio.create_task(look()) for _ in range(3)]
        for start in range(0, 150, 10):
            ids = [f"d{i}" for i in range(start, start + 10)]
            await service.client.post("/documents/delete", json={"ids": ids})
            gone |= set(ids)
        over = True
        await asyncio.gather(*lookers)
        left = sorted(await service.found("topic", top_k=200))
        assert left == sorted(f"d{i}" for i in range(150, 200))
    async with serving(settings) as service:
        for exact in (True, False):
            assert sorted(await service.found("topic", top_k=200, exact=exact)) == left
        await service.ingest({"id": "d3", "text": "back again on topic"})
        assert "d3" in await service.found("topic", top_k=200)


async def test_a_deleted_document_can_come_back_as_if_it_had_never_been(service: Service) -> None:
    for _ in range(3):
        reply = await service.ingest({"id": "a", "text": "here again"})
        assert reply["documents"][0]["status"] == "created"
        assert await service.found("here again") == ["a"]
        await service.client.delete("/documents/a")
        assert await service.found("here again") == []
    described = body(await service.client.get("/collections/default"))
    assert (described["documents"], described["chunks"], described["bytes"]) == (0, 0, 0)


async def listed(service: Service, **asked: object) -> list[list[Json]]:
    """Page by page, until there are no more."""
    pages: list[list[Json]] = []
    after: object = None
    while True:
        answer = body(await service.client.post("/documents/list", json=asked | {"after": after}))
        ListReply.model_validate(answer, strict=True)
        pages.append(answer["documents"])
        if (after := answer["next"]) is None:
            return pages


async def test_documents_are_listed_page_by_page_each_once(service: Service) -> None:
    await service.ingest(*({"id": f"d{i}", "text": f"text {i}", "metadata": {"n": i}} for i in range(25)))
    pages = await listed(service, limit=10)
    assert [len(page) for page in pages] == [10, 10, 5]
    every = [each for page in pages for each in page]
    assert [each["id"] for each in every] == [f"d{i}" for i in range(25)]
    assert every[7]["metadata"] == {"n": 7}
    assert (every[7]["state"], every[7]["chunks"], every[7]["text"]) == ("live", 1, None)
    assert await listed(service, collection="default", limit=25) == [every]


async def test_a_listing_has_what_a_filter_allows_and_texts_where_they_are_asked_for(service: Service) -> None:
    await service.ingest(*({"id": f"d{i}", "text": f"text {i}", "metadata": {"n": i}} for i in range(12)))
    pages = await listed(service, filter={"n": {"$gte": 5}}, limit=4, text=True)
    assert [[each["text"] for each in page] for page in pages] == [
        [f"text {i}" for i in some] for some in (range(5, 9), range(9, 12))
    ]
    assert await listed(service, filter={"n": 99}) == [[]]
    problem(await service.client.post("/documents/list", json={"filter": {"n": {"$near": 1}}}), 422, "invalid-filter")
    problem(await service.client.post("/documents/list", json={"collection": "none"}), 404, "not-found")


async def test_a_document_that_changes_while_it_is_listed_is_not_missed(service: Service) -> None:
    await service.ingest(*documents(4))
    first = body(await service.client.post("/documents/list", json={"limit": 2}))
    await service.ingest({"id": "d0", "text": "another text"}, {"id": "d3", "text": "another text"})
    rest = body(await service.client.post("/documents/list", json={"after": first["next"], "text": True}))
    assert [(each["id"], each["text"]) for each in rest["documents"]][1:] == [
        ("d0", "another text"),
        ("d3", "another text"),
    ]
    assert rest["documents"][0]["id"] == "d2"


async def test_what_waits_to_be_found_is_listed_as_such(service: Service) -> None:
    with nothing_embedded():
        await service.client.post("/ingest", json={"documents": documents(1), "wait": False})
        ((waiting,),) = await listed(service)
    assert waiting["state"] == "pending"


async def test_a_page_of_long_texts_ends_before_it_is_too_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_CHARS", 1000)
    await service.ingest(*({"id": f"d{i}", "text": "word " * length} for i, length in enumerate((150, 150, 900, 10))))
    assert [[each["id"] for each in page] for page in await listed(service, text=True)] == [
        ["d0"],
        ["d1"],
        ["d2"],
        ["d3"],
    ]
    assert [[each["id"] for each in page] for page in await listed(service)] == [["d0", "d1", "d2", "d3"]]


@pytest.mark.parametrize("route", ["list", "delete", "update"])
async def test_a_long_filter_is_not_read_by_the_event_loop(
    service: Service, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    await service.ingest(*documents(2))
    readers = set[int]()

    def parse_watched(*given: Any) -> Filter:
        readers.add(get_ident())
        return parse(*given)

    monkeypatch.setattr(f"app.api.{'ingest' if route == 'list' else 'checks'}.parse", parse_watched)
    asked: Json = {"filter": {"n": {"$in": [*range(20_000)]}}}
    answer = await service.client.post(
        f"/documents/{route}", json=asked | ({"metadata": {"seen": True}} if route == "update" else {})
    )
    assert answer.status_code == 200, answer.text
    assert readers
    assert get_ident() not in readers
