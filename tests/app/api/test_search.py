from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest

from app.api.search_schemas import SearchReply
from tests.app.serving import Json, Service, body, documents, fakes, pointers, problem, serving

TEXTS = {
    "mat": "the cat sat on the mat",
    "hat": "the cat in the hat",
    "dog": "a dog barks at the cat",
    "law": "contracts need signatures",
}


@pytest.fixture
async def animals(service: Service) -> Service:
    await service.ingest(*({"id": name, "text": text, "title": f"On {name}"} for name, text in TEXTS.items()))
    return service


async def test_the_answer_is_what_the_schema_says(animals: Service) -> None:
    found = await animals.search("cat on the mat")
    reply = SearchReply.model_validate(found, strict=True)
    assert reply.collection == "default"
    assert (reply.candidates, reply.reranked) == (4, 4)
    assert reply.truncated == {"embed": 0, "rerank": 0}
    assert reply.models.model_dump(exclude_none=True) == {"encoder": "fake:64", "reranker": "fake"}
    described = body(await animals.client.get("/collections/default"))
    assert reply.index.fingerprint == described["fingerprint"]
    assert reply.index.sequence == described["sequence"] == 4
    assert {"title", "text", "metadata", "stages", "tokens"} <= set(found["hits"][0])


async def test_hits_come_by_final_score_and_each_stage_ranks_by_its_own(animals: Service) -> None:
    hits = (await animals.search("cat on the mat"))["hits"]
    assert hits[0]["document_id"] == "mat"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for stage in ("dense", "rerank"):
        scores = {hit["stages"][stage]["rank"]: hit["stages"][stage]["score"] for hit in hits}
        assert sorted(scores) == [1, 2, 3, 4]
        assert [scores[rank] for rank in sorted(scores)] == sorted(scores.values(), reverse=True)
    assert [hit["stages"]["rerank"]["rank"] for hit in hits] == [1, 2, 3, 4]
    assert all(hit["score"] == hit["stages"]["rerank"]["score"] for hit in hits)


async def test_the_reranker_changes_the_order_where_it_sees_more(service: Service) -> None:
    """Both texts have the same words, so only the cross-encoder, which minds their order, can tell them apart."""
    await service.ingest({"id": "b", "text": "bank river green"}, {"id": "a", "text": "green river bank"})
    assert await service.found("green river bank", rerank=False) == ["b", "a"]
    assert await service.found("green river bank") == ["a", "b"]


async def test_without_reranking_the_first_stage_has_the_last_word(animals: Service) -> None:
    found = await animals.search("cat on the mat", rerank=False, top_k=3, mode="dense")
    assert (found["reranked"], found["candidates"], found["models"]["reranker"]) == (0, 3, None)
    assert set(found["timings"]) == {"embed", "filter", "retrieve", "fuse", "load"}
    for position, hit in enumerate(found["hits"], 1):
        assert set(hit["stages"]) == {"dense"}
        assert hit["score"] == hit["stages"]["dense"]["score"]
        assert hit["stages"]["dense"]["rank"] == position


async def test_only_as_many_as_asked_for_come_back(animals: Service) -> None:
    found = await animals.search("the cat", top_k=2)
    assert (len(found["hits"]), found["candidates"]) == (2, 4)
    assert await animals.found("the cat", top_k=100) == await animals.found("the cat", top_k=4)


async def test_candidates_are_never_fewer_than_top_k(service: Service) -> None:
    await service.ingest(*documents(40))
    found = await service.search("topic", top_k=20, candidates=5)
    assert (len(found["hits"]), found["reranked"]) == (20, 20)
    found = await service.search("topic", top_k=2, candidates=30)
    assert (len(found["hits"]), found["reranked"], found["candidates"]) == (2, 30, 30)


async def test_min_score_leaves_out_the_worse(animals: Service) -> None:
    hits = (await animals.search("cat on the mat"))["hits"]
    least = hits[1]["score"]
    kept = (await animals.search("cat on the mat", min_score=least))["hits"]
    assert [hit["id"] for hit in kept] == [hit["id"] for hit in hits if hit["score"] >= least]
    assert (await animals.search("cat on the mat", min_score=1000))["hits"] == []


async def test_hits_carry_what_is_asked_for(animals: Service) -> None:
    always = {"id", "document_id", "score", "start", "end", "tokens"}
    for include in ([], ["text"], ["title", "metadata"], ["stages"], ["text", "text"]):
        hit = (await animals.search("cat", include=include))["hits"][0]
        assert set(hit) == always | set(include)


async def test_a_title_is_told_beside_the_text_and_not_within_it(animals: Service) -> None:
    hit = (await animals.search("On hat", top_k=1))["hits"][0]
    assert (hit["title"], hit["text"], hit["start"], hit["end"]) == ("On hat", TEXTS["hat"], 0, len(TEXTS["hat"]))


async def test_offsets_lead_into_the_document(service: Service) -> None:
    text = "  Ein Anfang — 🦜🦜.\n\n" + " ".join(f"Wörter{i} sind größer." for i in range(500)) + "\n \n"
    await service.ingest({"id": "a", "text": text, "title": "Ein Titel"})
    hits = (await service.search("Wörter17 größer", top_k=100))["hits"]
    assert len(hits) > 5
    assert all(text[hit["start"] : hit["end"]] == hit["text"] for hit in hits)


async def test_the_graph_and_exact_search_find_the_same_first_ones(tmp_path: Path) -> None:
    chance = random.Random(5)
    words = [f"w{i}" for i in range(300)]
    async with serving(fakes(tmp_path, exact_below=0)) as service:
        await service.ingest(*({"id": f"d{i}", "text": " ".join(chance.choices(words, k=12))} for i in range(800)))
        shared = total = 0
        for _ in range(20):
            query = " ".join(chance.choices(words, k=4))
            graph = await service.found(query, rerank=False, top_k=20)
            exact = await service.found(query, rerank=False, top_k=20, exact=True)
            shared, total = shared + len({*graph} & {*exact}), total + 20
        assert shared >= 0.99 * total


async def test_an_empty_collection_has_no_hits(service: Service) -> None:
    for more in ({}, {"rerank": False}, {"exact": True}, {"filter": {"a": 1}}):
        found = await service.search("anything", **more)
        assert (found["hits"], found["candidates"], found["reranked"]) == ([], 0, 0)


async def test_a_query_longer_than_the_models_says_that_it_was_cut(animals: Service) -> None:
    found = await animals.search("cat " * 2000)
    assert found["truncated"] == {"embed": 1, "rerank": 4}
    assert animals.sample("winnow_truncated_texts_total", stage="rerank") == 4


FILTERS: list[tuple[Json, set[int]]] = [
    ({}, {0, 1, 2, 3}),
    ({"year": 2020}, {1}),
    ({"year": {"$gte": 2020, "$lt": 2022}}, {1, 2}),
    ({"year": {"$ne": 2020}}, {0, 2, 3}),
    ({"tags": "red"}, {0, 2}),
    ({"tags": {"$in": ["blue", "green"]}}, {1, 2}),
    ({"tags": {"$nin": ["red"]}}, {1, 3}),
    ({"author.name": "Ann"}, {0}),
    ({"author.name": {"$exists": False}}, {3}),
    ({"draft": True}, {3}),
    ({"at": {"$lt": "2021-06-01T00:00:00Z"}}, {0, 1}),
    ({"at": "2021-05-31T22:30:00-01:00"}, {1}),
    ({"$or": [{"year": 2019}, {"draft": True}]}, {0, 3}),
    ({"$and": [{"tags": "red"}, {"$not": {"year": 2019}}]}, {2}),
    ({"year": {"$not": {"$gt": 2019}}}, {0, 3}),
    ({"year": 2020.0}, {1}),
    ({"year": "2020"}, set()),
]
LIBRARY: list[Json] = [
    {"year": 2019, "tags": ["red"], "author": {"name": "Ann"}, "at": "2019-01-01"},
    {"year": 2020, "tags": ["blue"], "author": {"name": "Bob"}, "at": "2021-05-31T23:30:00Z"},
    {"year": 2021, "tags": ["red", "green"], "author": {"name": "Cid"}, "at": "2021-06-01"},
    {"draft": True},
]


@pytest.fixture
async def library(service: Service) -> Service:
    await service.ingest(*({"id": str(i), "text": f"book {i}", "metadata": m} for i, m in enumerate(LIBRARY)))
    return service


@pytest.mark.parametrize(("condition", "expected"), FILTERS, ids=lambda value: str(value)[:60])
async def test_filters_let_through_what_matches(library: Service, condition: Json, expected: set[int]) -> None:
    for exact in (False, True):
        assert {int(found) for found in await library.found("book", filter=condition, exact=exact)} == expected


BAD_FILTERS: list[tuple[Json, str]] = [
    ({"year": {"$near": 1}}, "/filter/year/$near"),
    ({"$or": []}, "/filter/$or"),
    ({"$and": [{"a": 1}, {"b": {"$in": 5}}]}, "/filter/$and/1/b/$in"),
    ({"a": {"$gt": None}}, "/filter/a/$gt"),
    ({"a/b": {"$gt": {}}}, "/filter/a~1b/$gt"),
    ({"a": [1, 2]}, "/filter/a"),
    ({"a": {"$exists": 1}}, "/filter/a/$exists"),
    ({"a": {}}, "/filter/a"),
]


@pytest.mark.parametrize(("condition", "pointer"), BAD_FILTERS, ids=lambda value: str(value)[:60])
async def test_a_filter_that_can_not_be_read_is_refused_at_the_bad_part(
    service: Service, condition: Json, pointer: str
) -> None:
    answer = await service.client.post("/search", json={"query": "x", "filter": condition})
    problem(answer, 422, "invalid-filter")
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize("exact_below", [0, 4096], ids=["graph", "exact"])
async def test_top_k_is_filled_when_enough_documents_match_a_rare_filter(tmp_path: Path, exact_below: int) -> None:
    async with serving(fakes(tmp_path, exact_below=exact_below)) as service:
        common = ({"id": f"c{i}", "text": f"wanted words number {i}", "metadata": {"rare": False}} for i in range(1500))
        rare = ({"id": f"r{i}", "text": f"far off topic {i} entirely", "metadata": {"rare": True}} for i in range(25))
        await service.ingest(*common, *rare)
        for more in ({}, {"rerank": False}, {"exact": True}):
            found = await service.found("wanted words number 7", filter={"rare": True}, top_k=20, **more)
            assert len(found) == 20
            assert all(name.startswith("r") for name in found)
        assert len(await service.found("wanted words", filter={"rare": True}, top_k=100)) == 25


async def test_the_time_of_each_stage_is_told_and_they_fit_into_the_whole(animals: Service) -> None:
    answer = await animals.client.post("/search", json={"query": "cat", "filter": {"a": {"$exists": False}}})
    found = body(answer)
    assert list(found["timings"]) == ["embed", "filter", "retrieve", "fuse", "load", "rerank"]
    spent = sum(part for stage in found["timings"].values() for part in stage.values())
    assert 0 < spent <= found["total_ms"]
    assert found["timings"]["embed"]["queue"] > 0
    assert found["timings"]["rerank"]["queue"] > 0
    parts = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert all(re.fullmatch(r"[a-z-]+", name) for name in parts)
    assert set(parts) == {*found["timings"], "embed-queue", "rerank-queue", "total"}
    assert float(parts["embed"]) == found["timings"]["embed"]["compute"]
    assert float(parts["total"]) >= spent


async def test_searches_at_once_share_batches_and_get_their_own_answers(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, reranker="fake:slow")) as service:
        await service.ingest(*documents(100, "item number{0} here"))
        answers = await asyncio.gather(*(service.found(f"number{i}", top_k=1, candidates=5) for i in range(40)))
        assert answers == [[f"d{i}"] for i in range(40)]
        batches = service.sample("winnow_batch_tokens_count", model="reranker:fake:slow", lane="search")
        assert 0 < batches < 40


async def test_a_search_in_an_unknown_collection_says_how_to_make_it(service: Service) -> None:
    told = problem(await service.client.post("/search", json={"query": "x", "collection": "none"}), 404, "not-found")
    assert "POST /collections" in told["detail"]
