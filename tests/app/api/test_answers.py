"""Answers that are fit for a prompt."""

from __future__ import annotations

import asyncio
from itertools import groupby, pairwise
from pathlib import Path
from threading import Event
from time import sleep

import apsw
import pytest

from app.api.search_schemas import SearchReply
from app.stores.filters import Filter, allowed_chunks
from app.types import ChunkIds
from tests.app.serving import Json, Service, fakes, pointers, problem, serving

BOOK = " ".join(f"Part {number} tells of thing{number} and river." for number in range(40))
"""Many chunks of one document."""


@pytest.fixture
async def library(service: Service) -> Service:
    recipe = {"chunk_tokens": 16, "overlap_tokens": 0}
    await service.client.post("/collections", json={"name": "books", "recipe": recipe})
    await service.ingest(
        {"id": "book", "text": BOOK},
        {"id": "note", "text": "A river and thing7."},
        {"id": "copy", "text": "A river and thing7."},
        {"id": "other", "text": "Bread needs salt."},
        collection="books",
    )
    return service


async def search(library: Service, query: str, **more: object) -> Json:
    found = await library.search(query, collection="books", **more)
    SearchReply.model_validate(found, strict=True)
    return found


async def test_groups_hold_the_best_hits_of_a_document_and_top_k_counts_documents(library: Service) -> None:
    hits = (await search(library, "river thing3 thing9", top_k=3, group_by="document", per_group=4))["hits"]
    names = [hit["document_id"] for hit in hits]
    together = [name for name, _ in groupby(names)]
    assert len(together) == len(set(together)) == 3
    assert names.count("book") == 4
    book = [hit["score"] for hit in hits if hit["document_id"] == "book"]
    assert book == sorted(book, reverse=True)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("more", [{"group_by": "document", "per_group": 1}, {"distinct": True}], ids=str)
async def test_as_many_answers_are_found_where_the_best_chunks_are_of_one_document_and_nothing_is_reranked(
    service: Service, mode: str, more: Json
) -> None:
    others = [{"id": f"d{n}", "text": f"topic {n} and words of other things"} for n in range(5)]
    await service.ingest({"id": "long", "text": "topic words " * 3000}, *others)
    asked: Json = {"mode": mode, "rerank": False, "top_k": 3}
    assert await service.found("topic words", **asked) == ["long"] * 3
    found = await service.found("topic words", **asked, **more)
    assert len(set(found)) == len(found) == 3


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_newness_raises_what_is_not_among_the_best_where_nothing_is_reranked(service: Service, mode: str) -> None:
    old, new = {"date": "2001-01-01"}, {"date": "2031-01-01"}
    await service.ingest(*({"id": f"old{n}", "text": "topic words", "metadata": old} for n in range(4)))
    await service.ingest({"id": "new", "text": "topic and other words", "metadata": new})
    asked: Json = {"mode": mode, "rerank": False, "top_k": 1, "recency": {"weight": 5.0}}
    assert await service.found("topic words", **asked) == ["new"]


async def test_neighbours_are_attached_and_contexts_that_meet_become_one(library: Service) -> None:
    plain = (await search(library, "thing20", top_k=1))["hits"][0]
    (hit,) = (await search(library, "thing20", top_k=1, expand=1))["hits"]
    context = hit["context"]
    assert context["start"] < plain["start"] < plain["end"] < context["end"]
    assert BOOK[context["start"] : context["end"]] == context["text"]
    assert plain["text"] in context["text"]
    whole = (await search(library, "river", top_k=30, expand=20))["hits"]
    book = [hit for hit in whole if hit["document_id"] == "book"]
    assert len(book) < len(book[0]["merged"]) + 1
    ranges = sorted((hit["context"]["start"], hit["context"]["end"]) for hit in book)
    assert all(one[1] < other[0] for one, other in pairwise(ranges))


async def test_near_duplicates_are_left_out_on_request(library: Service) -> None:
    every = [hit["document_id"] for hit in (await search(library, "river thing7", rerank=False))["hits"]]
    assert {"note", "copy"} <= set(every)
    kept = [hit["document_id"] for hit in (await search(library, "river thing7", rerank=False, distinct=True))["hits"]]
    assert len({"note", "copy"}.intersection(kept)) == 1


async def test_diversity_brings_something_else_forward(library: Service) -> None:
    query = "river thing7"
    plain = [hit["document_id"] for hit in (await search(library, query, top_k=3))["hits"]]
    mixed = [hit["document_id"] for hit in (await search(library, query, top_k=3, diversity=0.9))["hits"]]
    assert plain[0] == mixed[0]
    assert "other" in mixed
    assert "other" not in plain


async def test_an_answer_keeps_to_its_room(library: Service) -> None:
    whole = (await search(library, "river", top_k=20))["hits"]
    fitted = (await search(library, "river", top_k=20, max_tokens=40))["hits"]
    assert 0 < len(fitted) < len(whole)
    assert [hit["id"] for hit in fitted] == [hit["id"] for hit in whole if hit["id"] in {each["id"] for each in fitted}]
    assert sum(len(hit["text"].split()) for hit in fitted) <= 40
    assert "left_out" not in await search(library, "river", top_k=20)


async def test_an_answer_says_how_many_hits_had_no_room(library: Service) -> None:
    whole = (await search(library, "river", top_k=20))["hits"]
    some = await search(library, "river", top_k=20, max_tokens=40)
    assert some["left_out"] == len(whole) - len(some["hits"]) > 0
    none = await search(library, "river", top_k=20, max_tokens=1)
    assert (none["hits"], none["left_out"]) == ([], len(whole))


async def test_the_best_sentence_is_shown_in_the_document(service: Service) -> None:
    text = "Rivers run to the sea. Bread needs salt. The moon moves tides."
    await service.ingest({"id": "a", "text": text, "title": "On things"})
    for mode in ("hybrid", "lexical"):
        for rerank in (True, False):
            (hit,) = (await service.search("needs salt", highlight=True, mode=mode, rerank=rerank))["hits"]
            assert text[hit["highlight"]["start"] : hit["highlight"]["end"]] == "Bread needs salt."


async def test_an_explanation_tells_which_words_matched_and_what_the_filter_left(service: Service) -> None:
    await service.ingest(
        *({"id": f"d{n}", "text": f"rivers and seas {n}", "metadata": {"n": n, "even": not n % 2}} for n in range(10))
    )
    found = await service.search("a river of gold", explain=True, filter={"n": {"$lt": 4}, "even": True})
    assert found["explanation"] == {"chunks": 10, "allowed": 2, "conditions": [4, 5]}
    assert all(hit["matches"] == ["river"] for hit in found["hits"])
    found = await service.search("a river of gold", explain=True)
    assert found["explanation"] == {"chunks": 10, "allowed": 10, "conditions": []}
    assert "matches" not in (await service.search("a river"))["hits"][0]


async def test_other_searches_have_turns_between_the_conditions_of_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a look-up of its own, so that those of a long filter take seconds in a large collection."""
    begun, counted = Event(), list[Filter]()

    def counting(db: apsw.Connection, wanted: Filter, collection: int) -> ChunkIds:
        counted.append(wanted)
        begun.set()
        sleep(0.05)
        return allowed_chunks(db, wanted, collection)

    monkeypatch.setattr("app.service.explain.allowed_chunks", counting)
    monkeypatch.setattr("app.stores.sqlite.READERS", 1)
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": "a river", "metadata": {"n": 1}})
        long = {"$and": [{"n": {"$gte": -n}} for n in range(40)]}
        explained = asyncio.create_task(service.search("river", explain=True, filter=long))
        await asyncio.to_thread(begun.wait)
        assert await service.found("river") == ["a"]
        assert len(counted) < 40
        assert (await explained)["explanation"]["conditions"] == [1] * 40


async def test_each_hit_says_how_much_of_it_was_read(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": "green river bank"})
        (hit,) = (await service.search("river bank"))["hits"]
        assert hit["tokens"]["total"] == hit["tokens"]["scored"] > 5
        (hit,) = (await service.search("river bank", rerank=False))["hits"]
        assert hit["tokens"] == {"total": 3, "scored": 3}
        (hit,) = (await service.search("river " * 600))["hits"]
        assert hit["tokens"]["total"] > 600 > hit["tokens"]["scored"]


LONG = "river " * 420
"""Fits the encoder, and leaves little room beside it in what the reranker reads."""


async def test_a_query_that_leaves_too_little_room_is_told_or_refused_or_chunks_are_read_in_windows(
    tmp_path: Path,
) -> None:
    text = " ".join(f"w{number}" for number in range(200)) + " treasure"
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": text, "title": "On things"}, {"id": "b", "text": "short"})
        query = f"{LONG} treasure"
        told = await service.search(query)
        assert told["truncated"]["rerank"] == 1
        answer = await service.client.post("/search", json={"query": query, "on_truncation": "refuse"})
        assert "on_truncation" in problem(answer, 422, "invalid")["errors"][0]["detail"]
        assert pointers(answer) == ["/query"]
        windowed = await service.search(query, on_truncation="window")
        assert windowed["truncated"]["rerank"] == 0
        hits = {hit["document_id"]: hit for hit in windowed["hits"]}
        assert hits["a"]["tokens"]["scored"] == hits["a"]["tokens"]["total"] > 512
        window = hits["a"]["window"]
        assert 0 <= window["start"] < window["end"] <= len(text)
        assert text[window["start"] : window["end"]].endswith("treasure")
        assert "window" not in hits["b"]
        assert service.sample("winnow_windowed_texts_total") == 1


async def test_a_query_that_is_longer_than_the_encoder_reads_is_refused_on_request(
    service: Service,
) -> None:
    await service.ingest({"id": "a", "text": "river"})
    asked = {"query": "river " * 600, "on_truncation": "refuse", "rerank": False}
    answer = await service.client.post("/search", json=asked)
    assert "600 tokens" in problem(answer, 422, "invalid")["errors"][0]["detail"].replace("601", "600")
    assert (await service.client.post("/search", json=asked | {"query": "river"})).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"group_by": "author"}, "/group_by"),
        ({"per_group": 0}, "/per_group"),
        ({"per_group": 3}, "/per_group"),
        ({"expand": 21}, "/expand"),
        ({"diversity": 1.5}, "/diversity"),
        ({"max_tokens": 0}, "/max_tokens"),
    ],
)
async def test_a_shape_that_can_not_be_is_refused(service: Service, wrong: dict[str, object], pointer: str) -> None:
    answer = await service.client.post("/search", json={"query": "x", **wrong})
    problem(answer, 422, "invalid")
    assert pointers(answer) == [pointer]
