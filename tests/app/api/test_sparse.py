"""A third first stage: candidates by terms that a text could have had, alone and beside vectors and words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.app.serving import Service, body, fakes, pointers, problem, serving
from tests.models import tiny

TEXTS = {
    "sign": "contracts need signatures",
    "mat": "the cat sat on the mat",
    "dog": "a dog barks at night",
}
OPENED = ["fake", "fake:lookup"]


@pytest.fixture(params=OPENED)
async def sparse(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(fakes(tmp_path, sparse=request.param)) as service:
        await service.ingest(*({"id": name, "text": text} for name, text in TEXTS.items()))
        yield service


async def test_a_sparse_search_finds_what_shares_a_term_and_needs_no_encoder(sparse: Service) -> None:
    found = await sparse.search("the cat at night", mode="sparse", rerank=False)
    assert (found["mode"], found["models"]["sparse"]) == ("sparse", sparse.engine.settings.sparse)
    assert [hit["document_id"] for hit in found["hits"]] == ["mat", "dog"]
    assert "embed" not in found["timings"]
    assert found["timings"]["weigh"]["compute"] > 0
    assert found["truncated"]["weigh"] == 0
    for place, hit in enumerate(found["hits"], 1):
        assert hit["stages"]["sparse"] == {"score": hit["score"], "rank": place}
        assert hit["score"] > 0


async def test_it_finds_by_words_that_are_not_there(tmp_path: Path) -> None:
    """The fake encoder foresees the first letters of every word."""
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await service.ingest(*({"id": name, "text": text} for name, text in TEXTS.items()))
        assert await service.found("signed", mode="lexical") == []
        assert await service.found("signed", mode="sparse") == ["sign"]


async def test_a_sparse_search_may_be_reranked_too(sparse: Service) -> None:
    found = await sparse.search("the cat sat", mode="sparse")
    (hit,) = found["hits"]
    assert hit["document_id"] == "mat"
    assert set(hit["stages"]) == {"dense", "lexical", "sparse", "rerank"}
    assert [hit["stages"][stage]["rank"] for stage in ("dense", "lexical", "sparse")] == [None, None, 1]


async def test_a_hybrid_search_fuses_all_three(sparse: Service) -> None:
    found = await sparse.search("a cat barks", rerank=False, fusion={"by": "ranks"})
    assert found["models"]["sparse"] == sparse.engine.settings.sparse
    for hit in found["hits"]:
        stages = hit["stages"]
        assert set(stages) == {"dense", "lexical", "sparse", "fused"}
        weights = {"dense": 0.6, "lexical": 0.4, "sparse": 0.4}
        gains = [weight / (60 + stages[stage]["rank"]) for stage, weight in weights.items() if stages[stage]["rank"]]
        assert stages["fused"]["score"] == pytest.approx(sum(gains), rel=1e-5)


@pytest.mark.parametrize("by", ["ranks", "scores"])
async def test_a_ranking_that_weighs_much_more_decides(sparse: Service, by: str) -> None:
    query = "night contracts cat sat"
    alone = await sparse.found(query, mode="sparse", rerank=False)
    both = await sparse.found(query, rerank=False, fusion={"by": by, "sparse": 1e6})
    assert both[: len(alone)] == alone


async def test_the_settings_weigh_what_a_search_leaves_open(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake", sparse_weight=3, fusion="ranks", fusion_k=1)) as service:
        await service.ingest({"id": "a", "text": "green river"})
        (hit,) = (await service.search("river", rerank=False))["hits"]
        assert hit["score"] == pytest.approx((0.6 + 0.4 + 3) / 2)


async def test_a_filter_holds_for_terms_as_well(sparse: Service) -> None:
    await sparse.ingest(*({"id": f"d{n}", "text": "a river", "metadata": {"n": n}} for n in range(20)))
    found = await sparse.found("river", mode="sparse", filter={"n": {"$in": [3, 5]}})
    assert sorted(found) == ["d3", "d5"]


async def test_what_is_acknowledged_is_found_by_its_terms_and_what_is_deleted_is_not(sparse: Service) -> None:
    await sparse.ingest({"id": "a", "text": "a green river"}, {"id": "b", "text": "a green field"})
    assert sorted(await sparse.found("green", mode="sparse")) == ["a", "b"]
    await sparse.ingest({"id": "a", "text": "a blue river"})
    assert await sparse.found("green", mode="sparse") == ["b"]
    assert await sparse.found("blue", mode="sparse") == ["a"]
    await sparse.client.delete("/documents/b")
    assert await sparse.found("green", mode="sparse") == []


async def test_a_document_under_replacement_is_never_missing(sparse: Service) -> None:
    await sparse.ingest({"id": "a", "text": "river version zero"})
    done = asyncio.Event()

    async def replace() -> None:
        for number in range(15):
            await sparse.ingest({"id": "a", "text": f"river version {number}"})
        done.set()

    replacing = asyncio.create_task(replace())
    while not done.is_set():
        assert await sparse.found("river version", mode="sparse") == ["a"]
    await replacing


async def test_a_collection_without_a_sparse_encoder_says_what_to_set(service: Service) -> None:
    await service.ingest({"id": "a", "text": "a green river"})
    answer = await service.client.post("/search", json={"query": "river", "mode": "sparse"})
    told = problem(answer, 422, "invalid")
    assert pointers(answer) == ["/mode"]
    assert "WINNOW_SPARSE" in told["errors"][0]["detail"]
    found = await service.search("river", rerank=False)
    assert set(found["hits"][0]["stages"]) == {"dense", "lexical", "fused"}
    assert set(found["models"]) == {"encoder", "reranker"}
    assert "weigh" not in found["timings"]


async def test_only_queries_that_are_read_take_the_model(sparse: Service) -> None:
    name = sparse.engine.settings.sparse
    before = sparse.encoded("search", f"sparse:{name}")
    await sparse.search("river", mode="sparse")
    assert sparse.encoded("search", f"sparse:{name}") == before + (name == "fake")
    assert sparse.encoded("ingest", f"sparse:{name}") > 0


async def test_a_query_longer_than_the_sparse_encoder_reads_is_told_or_refused(sparse: Service) -> None:
    long = {"query": "river " * 600, "mode": "sparse", "rerank": False}
    assert body(await sparse.client.post("/search", json=long))["truncated"]["weigh"] == 1
    answer = await sparse.client.post("/search", json=long | {"on_truncation": "refuse"})
    assert "the sparse encoder reads 512" in problem(answer, 422, "invalid")["errors"][0]["detail"]


async def test_chunks_fit_the_sparse_encoder_too(sparse: Service) -> None:
    recipe = {"name": "x", "recipe": {"chunk_tokens": 512}, "reranker": "fake"}
    told = problem(await sparse.client.post("/collections", json=recipe), 422, "invalid-recipe")
    assert [each["pointer"] for each in told["errors"]] == ["/recipe/chunk_tokens"] * 3


@pytest.mark.parametrize("looks_up", [False, True])
async def test_a_real_model_serves_from_ingest_to_hits(service: Service, tmp_path: Path, looks_up: bool) -> None:
    model = str(tiny.save_sparse(tmp_path / "model", plain=True, looks_up=looks_up))
    own = {"name": "own", "sparse": model, "recipe": {"chunk_tokens": 48, "overlap_tokens": 8}}
    assert (await service.client.post("/collections", json=own)).status_code == 201
    texts = dict(enumerate(tiny.TEXTS))
    await service.ingest(*({"id": str(n), "text": text} for n, text in texts.items()), collection="own")
    assert (await service.found("green river", mode="sparse", collection="own", rerank=False))[0] == "0"
    assert (await service.found("interest rate", mode="sparse", collection="own", rerank=False))[0] == "1"
    assert service.encoded("ingest", f"sparse:{model}") > 0
    assert (await service.search("green river", collection="own"))["models"]["sparse"] == model
