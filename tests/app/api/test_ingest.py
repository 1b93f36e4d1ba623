from __future__ import annotations

import asyncio
import random
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest

from app.api.schemas import IngestReply, JobReply
from app.engine import THREADS
from app.service import ingest
from app.stages.embed import Embedder
from app.types import Chunk
from models.types import ModelError
from tests.app.serving import (
    Json,
    Service,
    body,
    documents,
    fakes,
    nothing_embedded,
    pointers,
    problem,
    serving,
    until,
)

LONG = " ".join(f"word{i}" for i in range(2000))


async def test_what_was_ingested_is_found_in_a_sensible_order(service: Service) -> None:
    reply = await service.ingest(
        {"id": "cat", "text": "the cat sat on the mat"},
        {"id": "dog", "text": "the dog sat in the garden"},
        {"id": "law", "text": "contracts need two signatures"},
    )
    assert IngestReply.model_validate(reply, strict=True).searchable
    assert [each["status"] for each in reply["documents"]] == ["created"] * 3
    assert await service.found("cat sat on mat") == ["cat", "dog", "law"]


async def test_what_is_split_is_embedded_while_others_are_being_split(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, split = Event(), ingest._split

    def split_before_others(*given: Any) -> dict[int, list[Chunk]]:
        for _ in range(THREADS["ingest"]):
            service.engine.ingest._threads.submit(others.wait)
        return split(*given)

    monkeypatch.setattr(ingest, "_split", split_before_others)
    try:
        await service.ingest({"id": "quick", "text": "in and done"})
        assert await service.found("in and done") == ["quick"]
    finally:
        others.set()


async def test_one_bad_document_keeps_all_out_and_every_bad_one_is_named(service: Service) -> None:
    bad = {
        "documents": [
            {"id": "good", "text": "fine"},
            {"id": "empty", "text": "  "},
            {"id": " ", "text": "fine"},
            {"id": "meta", "text": "fine", "metadata": {"a.b": 1}},
            {"id": "bell", "text": "a bell \u0007 rings"},
        ]
    }
    answer = await service.client.post("/ingest", json=bad)
    problem(answer, 422, "invalid-documents")
    assert pointers(answer) == [
        "/documents/1/text",
        "/documents/2/id",
        "/documents/3/metadata/a.b",
        "/documents/4/text",
    ]
    assert await service.found("fine") == []
    problem(await service.client.get("/documents/good"), 404, "not-found")


async def test_wrong_shapes_and_wrong_contents_are_named_together(service: Service) -> None:
    bad = {"documents": [{"text": 5}, {"text": ""}, {"text": "fine"}, {"id": "x"}, {"text": "fine", "colour": "red"}]}
    answer = await service.client.post("/ingest", json=bad)
    assert answer.status_code == 422
    assert set(pointers(answer)) == {
        "/documents/0/text",
        "/documents/1/text",
        "/documents/3/text",
        "/documents/4/colour",
    }


async def test_a_missing_id_becomes_a_hash_of_all_the_content(service: Service) -> None:
    plain: Json = {"text": "same words"}
    variants = [plain, plain | {"title": "t"}, plain | {"metadata": {"a": 1}}, plain | {"format": "markdown"}]
    ids = [each["id"] for each in (await service.ingest(*variants))["documents"]]
    assert len(set(ids)) == 4
    again = await service.ingest(*reversed(variants))
    assert [each["id"] for each in again["documents"]] == ids[::-1]
    assert {each["status"] for each in again["documents"]} == {"unchanged"}


async def test_the_hash_does_not_depend_on_the_order_of_metadata(service: Service) -> None:
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    reply = await service.ingest({"text": "x", "metadata": one}, {"text": "x", "metadata": other})
    first, second = reply["documents"]
    assert first["id"] == second["id"]
    assert len(await service.found("x")) == 1


async def test_an_unchanged_document_is_not_embedded_again(service: Service) -> None:
    document = {"id": "a", "text": LONG, "title": "Words", "metadata": {"x": 1}}
    created = (await service.ingest(document))["documents"][0]
    batches = service.encoded()
    unchanged = (await service.ingest(document))["documents"][0]
    assert unchanged == {"id": "a", "status": "unchanged", "chunks": created["chunks"]}
    assert created["chunks"] > 5
    assert service.encoded() == batches


async def test_new_metadata_is_seen_by_filters_at_once_and_embeds_nothing(service: Service) -> None:
    await service.ingest({"id": "a", "text": LONG, "metadata": {"year": 2020, "old": True}})
    batches = service.encoded()
    reply = await service.ingest({"id": "a", "text": LONG, "metadata": {"year": 2021}})
    assert reply["documents"][0]["status"] == "updated"
    assert service.encoded() == batches
    assert await service.found("word1", filter={"year": 2020}) == []
    assert await service.found("word1", filter={"old": {"$exists": True}}) == []
    assert set(await service.found("word1", filter={"year": 2021})) == {"a"}
    assert (await service.search("word1"))["hits"][0]["metadata"] == {"year": 2021}


async def test_a_new_title_is_new_content(service: Service) -> None:
    await service.ingest({"id": "a", "text": "body", "title": "first title"})
    reply = await service.ingest({"id": "a", "text": "body", "title": "second title"})
    assert reply["documents"][0]["status"] == "replaced"
    (hit,) = (await service.search("title"))["hits"]
    assert hit["title"] == "second title"


async def test_new_content_replaces_all_of_the_old(service: Service) -> None:
    await service.ingest({"id": "a", "text": LONG, "metadata": {"v": 1}}, {"id": "b", "text": "another one"})
    reply = await service.ingest({"id": "a", "text": "short and new", "metadata": {"v": 2}})
    assert reply["documents"][0] == {"id": "a", "status": "replaced", "chunks": 1}
    hits = (await service.search("word1 word2 short", top_k=100))["hits"]
    assert sorted(hit["text"] for hit in hits) == ["another one", "short and new"]
    assert body(await service.client.get("/collections/default"))["chunks"] == 2


@pytest.mark.parametrize("condition", [None, {"kind": "clock"}], ids=["unfiltered", "filtered"])
async def test_while_a_document_is_replaced_searches_find_one_version_of_it(
    service: Service, condition: Json | None
) -> None:
    """Never both, never none, and never one that is older than what was acknowledged before the search began."""

    def version(number: int) -> Json:
        return {"id": "clock", "text": f"tick tock version {number}", "metadata": {"v": number, "kind": "clock"}}

    await service.ingest(*documents(30, "noise {0} filler"), version(0))
    newest, over, seen = 0, False, 0

    async def look() -> None:
        nonlocal seen
        while not over:
            before = newest
            hits = (await service.search("tick tock", filter=condition))["hits"]
            texts = [hit["text"] for hit in hits if hit["document_id"] == "clock"]
            assert len(texts) == 1, f"{texts} after version {before}"
            assert int(texts[0].split()[-1]) >= before
            seen += 1

    lookers = [asyncio.create_task(look()) for _ in range(4)]
    for number in range(1, 81):
        await service.ingest(version(number))
        newest = number
        if any(looker.done() for looker in lookers):
            break
    over = True
    await asyncio.gather(*lookers)
    assert seen > 80


async def test_replacing_long_documents_shows_chunks_of_one_version_only(service: Service) -> None:
    def version(number: int) -> Json:
        return {"id": "long", "text": " ".join(f"common{i} v{number}" for i in range(700))}

    await service.ingest(version(0))
    over = False

    async def look() -> None:
        while not over:
            hits = (await service.search("common1 common2", top_k=50))["hits"]
            versions = {next(word for word in hit["text"].split() if word.startswith("v")) for hit in hits}
            assert len(versions) == 1
            assert len(hits) == len({hit["start"] for hit in hits}) >= 6

    lookers = [asyncio.create_task(look()) for _ in range(3)]
    for number in range(1, 21):
        await service.ingest(version(number))
    over = True
    await asyncio.gather(*lookers)


async def test_the_same_id_twice_in_one_request_is_refused(service: Service) -> None:
    twice = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}, {"id": "a", "text": "three"}]
    answer = await service.client.post("/ingest", json={"documents": twice})
    problem(answer, 422, "invalid-documents")
    assert pointers(answer) == ["/documents/2/id"]


async def test_the_last_of_many_quick_replacements_is_the_one_that_is_found(service: Service) -> None:
    answers = [
        await service.client.post("/ingest", json={"documents": [{"id": "a", "text": f"v{i} {LONG}"}], "wait": False})
        for i in range(20)
    ]
    assert {answer.status_code for answer in answers} == {202}
    assert body(await service.client.get("/documents/a"))["text"].startswith("v19 ")
    await service.ingest({"id": "a", "text": f"v19 {LONG}"})
    hits = (await service.search("v19 v3", top_k=100))["hits"]
    described = body(await service.client.get("/collections/default"))
    assert (described["documents"], described["pending"], described["chunks"]) == (1, 0, len(hits))
    assert hits[0]["text"].startswith("v19 ")
    for answer in answers:
        job = body(await service.client.get(f"/jobs/{body(answer)['job']}"))
        assert job["state"] == "done"


async def test_going_back_to_what_is_live_drops_the_version_that_waited(service: Service) -> None:
    await service.ingest({"id": "a", "text": "the first text"})
    for text in (LONG, "the first text"):
        await service.client.post("/ingest", json={"documents": [{"id": "a", "text": text}], "wait": False})
    await service.ingest({"id": "b", "text": "something else"})
    assert (await service.search("first text", top_k=99))["hits"][0]["text"] == "the first text"
    assert body(await service.client.get("/documents/a"))["text"] == "the first text"
    assert len(await service.found("the first text", top_k=99)) == 2


async def test_a_caller_that_does_not_wait_gets_a_job_to_poll(service: Service) -> None:
    answer = await service.client.post("/ingest", json={"documents": documents(300), "wait": False})
    assert answer.status_code == 202
    reply = IngestReply.model_validate(body(answer), strict=True)
    assert not reply.searchable
    polled: list[JobReply] = []
    while not polled or polled[-1].state == "running":
        polled.append(JobReply.model_validate(body(await service.client.get(f"/jobs/{reply.job}")), strict=True))
        await asyncio.sleep(0.005)
    last = polled[-1]
    assert (last.state, last.documents, last.searchable, last.pending, last.failed) == ("done", 300, 300, 0, 0)
    assert [job.searchable for job in polled] == sorted(job.searchable for job in polled)
    assert all(job.searchable + job.pending == 300 for job in polled)
    assert await service.found("topic 299", top_k=1) == ["d299"]


async def test_an_ingest_that_is_sent_again_while_its_documents_wait_is_not_done_before_they_are_found(
    service: Service,
) -> None:
    request = {"documents": documents(3), "wait": False}
    with nothing_embedded():
        first, again = [body(await service.client.post("/ingest", json=request)) for _ in range(2)]
        assert [each["status"] for each in again["documents"]] == ["unchanged"] * 3
        waits = body(await service.client.get(f"/jobs/{again['job']}"))
        assert (waits["state"], waits["searchable"], waits["pending"]) == ("running", 0, 3)
    for job in (first["job"], again["job"]):
        assert (await service.finished(job))["state"] == "done"
    assert len(await service.found("topic")) == 3


async def test_an_ingest_of_what_waits_already_is_told_that_it_can_not_be_embedded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, failing = asyncio.Event(), asyncio.Event()

    async def fail(*_: Any) -> NoReturn:
        begun.set()
        await failing.wait()
        raise ModelError("It breaks.")

    monkeypatch.setattr(Embedder, "documents", fail)
    request: Json = {"documents": documents(1), "wait": False}
    await service.client.post("/ingest", json=request)
    await begun.wait()
    again = asyncio.create_task(service.client.post("/ingest", json=request | {"wait": True}))
    await until(lambda: service.sample("winnow_ingested_documents_total", status="unchanged") == 1)
    failing.set()
    assert "It breaks." in problem(await again, 500, "model")["detail"]


async def test_an_unknown_job_is_not_found(service: Service) -> None:
    told = problem(await service.client.get("/jobs/none"), 404, "not-found")
    assert "none" in told["detail"]


async def test_an_ingest_that_takes_longer_than_allowed_goes_on_as_a_job(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, ingest_timeout=0.001)) as service:
        answer = await service.client.post("/ingest", json={"documents": documents(200)})
        assert answer.status_code == 202
        assert not body(answer)["searchable"]
        assert (await service.finished(body(answer)["job"]))["state"] == "done"
        assert await service.found("topic 7", top_k=1) == ["d7"]


async def test_a_title_that_leaves_no_room_for_text_is_refused(service: Service) -> None:
    title = " ".join(f"t{i}" for i in range(150))
    answer = await service.client.post(
        "/ingest", json={"documents": [{"text": "fine"}, {"id": "a", "text": "x " * 300, "title": title}]}
    )
    told = problem(answer, 422, "invalid-documents")
    assert pointers(answer) == ["/documents/1/title"]
    assert "150 tokens" in told["errors"][0]["detail"]


async def test_a_title_may_be_longer_than_the_text_where_both_fit_a_chunk(service: Service) -> None:
    title = " ".join(f"t{i}" for i in range(150))
    await service.ingest({"id": "a", "text": "short", "title": title})
    (hit,) = (await service.search("t149 short"))["hits"]
    assert (hit["document_id"], hit["text"], hit["title"]) == ("a", "short", title)


async def test_texts_without_a_single_word_are_kept_and_do_no_harm(service: Service) -> None:
    odd = ["\u200b\u200b", "…", "\u0301", "🦜", "\ufeff", "\u2028x"]
    await service.ingest(*({"id": f"odd{i}", "text": text} for i, text in enumerate(odd)))
    await service.ingest({"id": "plain", "text": "plain words"})
    for i, text in enumerate(odd):
        assert body(await service.client.get(f"/documents/odd{i}"))["text"] == text
    assert (await service.found("plain words"))[0] == "plain"


async def test_more_documents_than_allowed_at_once_are_refused(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_documents=3)) as service:
        answer = await service.client.post("/ingest", json={"documents": documents(4)})
        problem(answer, 422, "invalid-documents")
        assert pointers(answer) == ["/documents"]
        await service.ingest(*documents(3))


async def test_many_callers_at_once_lose_nothing(service: Service) -> None:
    async def caller(name: int) -> None:
        chance = random.Random(name)
        for i in range(10):
            await service.ingest(
                {"id": f"own-{name}-{i}", "text": f"caller{name} item{i}"},
                {"id": f"shared-{chance.randrange(5)}", "text": f"shared by caller{name} item{i}"},
            )

    await asyncio.gather(*(caller(name) for name in range(12)))
    described = body(await service.client.get("/collections/default"))
    assert (described["documents"], described["pending"], described["chunks"]) == (125, 0, 125)
    assert described["index_chunks"] == 125
    for name in (0, 5, 11):
        assert await service.found(f"caller{name} item7", top_k=1) == [f"own-{name}-7"]


async def test_deleting_what_an_ingest_waits_for_ends_its_wait(service: Service) -> None:
    waits = asyncio.create_task(service.client.post("/ingest", json={"documents": documents(500)}))
    await until(lambda: service.sample("winnow_ingested_documents_total", status="created") == 500)
    await service.client.post("/documents/delete", json={"ids": [f"d{i}" for i in range(500)]})
    answer = await asyncio.wait_for(waits, 10)
    assert answer.status_code == 200
    assert await service.found("topic") == []


async def test_dropping_the_collection_that_an_ingest_waits_for_ends_its_wait(service: Service) -> None:
    await service.client.post("/collections", json={"name": "brief"})
    request = {"documents": documents(500), "collection": "brief"}
    waits = asyncio.create_task(service.client.post("/ingest", json=request))
    await until(lambda: service.sample("winnow_ingested_documents_total", status="created") == 500)
    assert (await service.client.delete("/collections/brief")).status_code == 204
    answer = await asyncio.wait_for(waits, 10)
    assert answer.status_code < 500


async def test_ingest_into_a_collection_that_is_dropped_meanwhile_is_no_internal_error(service: Service) -> None:
    async def feed() -> list[int]:
        return [
            (await service.client.post("/ingest", json={"documents": documents(5), "collection": "brief"})).status_code
            for _ in range(20)
        ]

    async def flicker() -> None:
        for _ in range(20):
            await service.client.post("/collections", json={"name": "brief"})
            await asyncio.sleep(0.004)
            await service.client.delete("/collections/brief")

    feeds = [asyncio.create_task(feed()) for _ in range(4)]
    await flicker()
    told = {status for statuses in await asyncio.gather(*feeds) for status in statuses}
    assert told <= {200, 202, 404, 409, 503}
