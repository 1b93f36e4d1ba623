"""Candidates by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from tests.app.serving import Service, body, fakes, pointers, problem, serving

TEXTS = {
    "mat": "the cat sat on the mat",
    "hat": "the cat in the hat",
    "dog": "a dog barks at night",
    "law": "contracts need signatures",
}


def standardised(scores: list[float]) -> list[float]:
    return [max((score - fmean(scores)) / pstdev(scores), -1) for score in scores]


@pytest.fixture
async def animals(service: Service) -> Service:
    await service.ingest(*({"id": name, "text": text} for name, text in TEXTS.items()))
    return service


async def test_a_lexical_search_finds_only_what_has_a_word_and_needs_no_encoder(animals: Service) -> None:
    found = await animals.search("cats and signatures", mode="lexical", rerank=False)
    assert found["mode"] == "lexical"
    assert {hit["document_id"] for hit in found["hits"]} == {"mat", "hat", "law"}
    assert "embed" not in found["timings"]
    for place, hit in enumerate(found["hits"], 1):
        assert set(hit["stages"]) == {"lexical"}
        assert hit["stages"]["lexical"] == {"score": hit["score"], "rank": place}
        assert 0 < hit["score"] < 1


async def test_a_lexical_search_may_be_reranked_too(animals: Service) -> None:
    found = await animals.search("the cat on the mat", mode="lexical")
    assert found["hits"][0]["document_id"] == "mat"
    assert set(found["hits"][0]["stages"]) == {"dense", "lexical", "rerank"}
    assert {hit["stages"]["dense"]["rank"] for hit in found["hits"]} == {None}


async def test_a_hybrid_search_tells_what_each_stage_thought_and_which_of_them_found_it(animals: Service) -> None:
    found = await animals.search("a cat barks", rerank=False)
    assert found["mode"] == "hybrid"
    hits = {hit["document_id"]: hit["stages"] for hit in found["hits"]}
    assert set(hits) == set(TEXTS)
    assert all(set(stages) == {"dense", "lexical", "fused"} for stages in hits.values())
    assert hits["law"]["lexical"] == {"score": 0, "rank": None}
    dense, lexical = (standardised([each[stage]["score"] for each in hits.values()]) for stage in ("dense", "lexical"))
    expected = [0.6 * near + 0.4 * worded for near, worded in zip(dense, lexical, strict=True)]
    assert [each["fused"]["score"] for each in hits.values()] == pytest.approx(expected, abs=1e-4)


async def test_rankings_can_be_fused_by_their_ranks(animals: Service) -> None:
    found = await animals.search("a cat barks", rerank=False, fusion={"by": "ranks", "dense": 1, "lexical": 2})
    for stages in (hit["stages"] for hit in found["hits"]):
        shares = [(stages["dense"]["rank"], 1), (stages["lexical"]["rank"], 2)]
        expected = sum(weight / (60 + rank) for rank, weight in shares if rank)
        assert stages["fused"]["score"] == pytest.approx(expected, rel=1e-5)


async def test_the_best_hits_are_the_same_however_many_are_asked_for(service: Service) -> None:
    names = ["river", "lake", "sea", "brook", "pond", "rain"]
    await service.ingest(
        *({"id": f"d{n}", "text": f"{names[n % 6]} {names[n % 5]} {n} water {names[n % 4]}"} for n in range(300))
    )
    long = await service.found("river rain water", rerank=False, top_k=120)
    assert await service.found("river rain water", rerank=False, top_k=3, candidates=3) == long[:3]


async def test_a_ranking_that_weighs_much_more_decides(animals: Service) -> None:
    query = "night contracts cat"
    for stage in ("dense", "lexical"):
        alone = await animals.found(query, mode=stage, rerank=False)
        both = await animals.found(query, rerank=False, fusion={stage: 1e6})
        assert both[: len(alone)] == alone


async def test_the_settings_say_what_a_search_leaves_open(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, mode="lexical", fusion="ranks", fusion_k=1, dense_weight=2)) as service:
        await service.ingest({"id": "a", "text": "green river"})
        assert (await service.search("river"))["mode"] == "lexical"
        (hit,) = (await service.search("river", mode="hybrid", rerank=False))["hits"]
        assert hit["score"] == pytest.approx(2 / 2 + 0.4 / 2)


async def test_a_filter_holds_for_words_as_well(service: Service) -> None:
    await service.ingest(*({"id": f"d{n}", "text": "a river", "metadata": {"n": n}} for n in range(20)))
    found = await service.found("river", mode="lexical", filter={"n": {"$in": [3, 5]}})
    assert sorted(found) == ["d3", "d5"]


async def test_what_is_acknowledged_is_found_by_its_words_and_what_is_deleted_is_not(service: Service) -> None:
    await service.ingest({"id": "a", "text": "a green river"}, {"id": "b", "text": "a green field"})
    assert sorted(await service.found("green", mode="lexical")) == ["a", "b"]
    await service.ingest({"id": "a", "text": "a blue river"})
    assert await service.found("green", mode="lexical") == ["b"]
    assert await service.found("blue", mode="lexical") == ["a"]
    await service.client.delete("/documents/b")
    assert await service.found("green", mode="lexical") == []


async def test_a_document_under_replacement_is_never_missing(service: Service) -> None:
    await service.ingest({"id": "a", "text": "river version zero"})
    done = asyncio.Event()

    async def replace() -> None:
        for number in range(25):
            await service.ingest({"id": "a", "text": f"river version {number}"})
        done.set()

    replacing = asyncio.create_task(replace())
    while not done.is_set():
        for mode in ("lexical", "hybrid"):
            assert await service.found("river version", mode=mode) == ["a"]
    await replacing


async def test_each_collection_has_the_stems_of_its_language(service: Service) -> None:
    made = await service.client.post("/collections", json={"name": "deutsch", "language": "german"})
    assert body(made)["language"] == "german"
    await service.ingest({"id": "a", "text": "zwei alte Häuser"}, collection="deutsch")
    assert await service.found("das Haus", mode="lexical", collection="deutsch") == ["a"]


async def test_text_without_spaces_is_found_by_its_characters(service: Service) -> None:
    await service.ingest(
        {"id": "a", "text": "\u91cf\u5b50\u529b\u5b66\u5165\u95e8"}, {"id": "b", "text": "\u5386\u53f2"}
    )
    assert await service.found("\u529b\u5b66", mode="lexical") == ["a"]


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"mode": "both"}, "/mode"),
        ({"fusion": {"k": 0}}, "/fusion/k"),
        ({"fusion": {"by": "luck"}}, "/fusion/by"),
        ({"fusion": {"dense": 0}}, "/fusion/dense"),
        ({"fusion": {"lexical": 1e300}}, "/fusion/lexical"),
    ],
)
async def test_a_search_that_can_not_be_is_refused(service: Service, wrong: dict[str, object], pointer: str) -> None:
    answer = await service.client.post("/search", json={"query": "x", **wrong})
    problem(answer, 422, "invalid")
    assert pointers(answer) == [pointer]


async def test_a_language_that_there_is_not_is_refused(service: Service) -> None:
    answer = await service.client.post("/collections", json={"name": "x", "language": "klingon"})
    problem(answer, 422, "invalid")
    assert pointers(answer) == ["/language"]
