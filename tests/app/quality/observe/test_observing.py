"""A service with fake models is asked, and what it says of its own quality is held against what is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from app.quality.observe import observer
from app.service.second_look import compared
from app.settings import Settings
from app.stores.hnsw import HnswIndex
from app.types import Change
from app.witness import Beside
from tests.app.serving import Json, Service, body, documents, fakes, problem, serving, until

PLAIN = {"mode": "dense", "rerank": False}
WORDS = [f"w{i}" for i in range(300)]


def texts(amount: int, words: int, seed: int) -> list[str]:
    """Of a few topics each, so that their vectors lie in clusters."""
    draw = np.random.default_rng(seed)
    topics = [draw.choice(WORDS, 12, replace=False) for _ in range(20)]
    return [" ".join(draw.choice(topics[draw.integers(20)], words)) for _ in range(amount)]


def watching(folder: Path, **more: Any) -> Settings:
    """All of the time, and every search."""
    return fakes(folder, **{"observe_share": 1.0, "observe_time": 1.0, "exact_below": 0} | more)


async def filled(service: Service, amount: int = 1500) -> None:
    await service.ingest(*({"id": f"d{i}", "text": text} for i, text in enumerate(texts(amount, 8, seed=1))))


async def looked_at(service: Service, searches: int) -> Json:
    """What is known when so many searches have been compared, or found to be exact."""
    await until(lambda: came_to(service, "compared") + came_to(service, "exact") >= searches)
    return await quality(service)


def came_to(service: Service, outcome: str) -> float:
    return service.sample("winnow_observed_queries_total", collection="default", outcome=outcome)


async def quality(service: Service) -> Json:
    answer = await service.client.get("/quality", params={"collection": "default"})
    assert answer.status_code == 200, answer.text
    (found,) = body(answer)["collections"]
    assert isinstance(found, dict)
    return found


async def ask(service: Service, queries: Sequence[str], **more: object) -> None:
    for query in queries:
        await service.search(query, **more)


async def recall(service: Service, queries: Sequence[str]) -> float:
    """At 10, by asking everything twice."""
    shares = [
        len({*await service.found(query, **PLAIN)} & {*await service.found(query, exact=True, **PLAIN)}) / 10
        for query in queries
    ]
    return float(np.mean(shares))


@pytest.fixture
async def service_watched(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(watching(tmp_path, exact_below=4096)) as service:
        await filled(service, 200)
        yield service


@pytest.fixture
async def careless(tmp_path: Path) -> AsyncIterator[Service]:
    """A service whose graph has few links and is searched with little effort."""
    settings = watching(tmp_path, index_m=4, index_ef_construction=16, index_ef=16, encoder="fake:32")
    async with serving(settings) as service:
        await filled(service)
        yield service


async def test_recall_is_what_comparing_with_every_vector_says(careless: Service) -> None:
    queries = texts(60, 3, seed=2)
    truth = await recall(careless, queries)
    found = (await looked_at(careless, 2 * len(queries)))["recall"]["at"]["10"]
    assert truth < 0.98, "the graph was not made bad enough to tell anything"
    assert found["searches"] == len(queries), "an exact search counts as one of the graph"
    assert found["value"] == pytest.approx(truth, abs=0.002)
    assert found["low"] < found["value"] < found["high"]
    await until(lambda: careless.sample("winnow_ann_recall", collection="default", k="10") == found["value"])
    assert careless.sample("winnow_ann_recall_low", collection="default", k="10") == found["low"]
    assert careless.sample("winnow_ann_recall_high", collection="default", k="10") == found["high"]


async def test_tuning_mends_a_graph_that_is_searched_with_too_little_effort(tmp_path: Path) -> None:
    settings = watching(tmp_path, index_m=6, index_ef_construction=16, index_ef=16, encoder="fake:32", tune_ef=True)
    async with serving(settings) as service:
        await filled(service)
        before = await recall(service, texts(40, 3, seed=3))
        await looked_at(service, 80)
        await ask(service, texts(200, 3, seed=2), **PLAIN)
        await looked_at(service, 280)
        after = await recall(service, texts(40, 3, seed=3))
        assert before < 0.95, "the graph was not made bad enough to tell anything"
        assert after >= 0.96
        tuned = (await looked_at(service, 360))["recall"]["ef"]
        (shown,) = body(await service.client.get("/collections"))["collections"]
        assert shown["index_ef"] == tuned > 16
        await until(lambda: service.sample("winnow_index_ef", collection="default") == tuned)
    async with serving(settings) as service:  # what was found is kept
        await until(lambda: service.sample("winnow_index_ef", collection="default") == tuned)


async def test_after_a_switch_the_effort_that_is_told_of_is_the_one_that_searches_take(tmp_path: Path) -> None:
    async with serving(watching(tmp_path, index_ef=16, tune_ef=True)) as service:
        await service.ingest(*documents(20))
        await quality(service)
        service.engine.collections.shelf("default").indexes.dense.tune(64)
        assert (await service.client.post("/collections/default/standby", json={})).status_code == 201
        assert (await service.client.post("/collections/default/switch", json={})).status_code == 200
        await until(lambda: service.sample("winnow_index_ef", collection="default~standby"))
        told = service.sample("winnow_index_ef", collection="default~standby")
        assert service.engine.collections.shelf("default~standby").indexes.dense.index.ef == told == 64


async def test_searches_that_compare_with_every_allowed_vector_are_no_proof_of_the_graph(tmp_path: Path) -> None:
    async with serving(watching(tmp_path, exact_below=500)) as service:
        await service.ingest(*documents(600))
        await ask(service, ["topic 1", "topic 2"], filter={"n": {"$lt": 20}})
        await ask(service, ["topic 3"], mode="lexical")
        await looked_at(service, 3)
        assert (came_to(service, "compared"), came_to(service, "exact")) == (0, 3)
        await ask(service, ["topic 4"])
        found = await looked_at(service, 4)
        assert found["recall"]["at"]["10"]["searches"] == came_to(service, "compared") == 1


async def test_an_index_that_changes_meanwhile_is_never_held_against_another_state_of_itself() -> None:
    """The graph finds everything here, so that a comparison within one state shows nothing else."""
    draw = np.random.default_rng(5)
    vectors = draw.standard_normal((600, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = HnswIndex(16, 16, 200, 600, exact_below=0)
    index.apply([Change(n, n, vector) for n, vector in enumerate(vectors[:300], 1)])

    def churn() -> None:
        for n in range(1, 301):
            index.apply([Change(300 + n, n, None), Change(300 + n, 300 + n, vectors[299 + n])])

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        found: list[Beside] = []
        while not churning.done():
            found.append(compared(index, vectors[len(found) % 600], 50, None, [600]))
        churning.result()
    assert {"compared", "changed"} >= {each.outcome for each in found}
    assert {share for each in found for by_k in each.found.values() for share in by_k.values()} <= {1.0}
    assert len(found) > 10


@pytest.mark.parametrize("encoder", ["fake:512", "fake:late:512"])
async def test_the_depth_that_is_named_holds_the_best_answers(tmp_path: Path, encoder: str) -> None:
    """Thirty texts have two of the question's words and little else: they are near. Ten have all three among many, and
    comparing token by token brings them to the front of all candidates that there are."""
    near = [{"id": f"near{i}", "text": f"alpha beta other{i}"} for i in range(30)]
    good = [
        {"id": f"good{i}", "text": "alpha beta gamma " + " ".join(f"more{i}x{j}" for j in range(12))} for i in range(10)
    ]
    far = [{"id": f"far{i}", "text": f"nothing{i} of{i} the{i} kind{i}"} for i in range(60)]
    async with serving(watching(tmp_path, encoder=encoder, exact_below=4096)) as service:
        await service.ingest(*near, *good, *far)
        await ask(service, ["alpha beta gamma"], mode="dense", candidates=20)
        await until(lambda: came_to(service, "deepened") == 1)
        depth = (await quality(service))["depth"]
        assert (depth["candidates"], depth["looked_at"], depth["needed"]) == (20, 80, 40)
        assert (depth["missed"]["value"], depth["missed_answers"]) == (1.0, 1.0)
        assert depth["costs_ms"] > 0
        batches = {"model": "reranker:fake", "lane": "ingest"}
        assert service.sample("winnow_batch_tokens_count", **batches) == 60 / observer.AT_ONCE, (
            "searches can't overtake"
        )
        assert service.sample("winnow_depth_needed_bucket", collection="default", le="40.0") == 1
        await ask(service, ["alpha beta gamma"], mode="dense", candidates=50)
        await until(lambda: came_to(service, "deepened") == 2)
        assert (await quality(service))["depth"]["missed"]["value"] == 0.5
        assert {hit[:4] for hit in await service.found("alpha beta gamma", mode="dense", candidates=50)} == {"good"}


async def test_figures_that_need_no_second_look_are_of_every_search(service_watched: Service) -> None:
    long = " ".join(f"w{i}" for i in range(140))
    await ask(service_watched, [*texts(5, 3, seed=4), long])
    await ask(service_watched, ["nothing of the sort"], min_score=100.0)
    await until(lambda: came_to(service_watched, "watched") == 7)
    found = await quality(service_watched)
    assert found["rerank"]["overlap"]["searches"] == 7
    assert found["lengths"]["query_longest"] == 141
    assert found["lengths"]["long"]["value"] == pytest.approx(1 / 7)
    assert found["unanswered"]["value"] == pytest.approx(1 / 7)
    assert service_watched.sample("winnow_long_queries_total", collection="default") == 1
    assert service_watched.sample("winnow_query_tokens_count", collection="default") == 7
    assert service_watched.sample("winnow_top_score_count", collection="default") == 7
    assert service_watched.sample("winnow_query_distance_count", collection="default") == 7
    assert [each["text"] for each in found["findings"]] == ["Not enough searches yet: 7 of 50."]


async def test_questions_of_another_kind_show_as_drift_and_the_reference_outlives_a_restart(tmp_path: Path) -> None:
    settings = watching(tmp_path, observe_share=0.001)
    async with serving(settings) as service:
        await filled(service, 300)
        early = await service.client.post("/quality/reference")
        problem(early, 409, "conflict")
        await ask(service, texts(100, 3, seed=1), rerank=False)
        await until(lambda: came_to(service, "watched") == 100)
        assert (await service.client.post("/quality/reference")).json()["drift"]["searches"] == 100
        await ask(service, texts(100, 3, seed=1)[:100], rerank=False)
        await until(lambda: came_to(service, "watched") == 200)
        same = (await quality(service))["drift"]
        assert {each["name"]: each["moved"] for each in same["signals"]} == {
            "top_score": False,
            "query_distance": False,
        }
    async with serving(settings) as service:
        await ask(service, [f"x{i} y{i} z{i}" for i in range(100)], rerank=False)
        await until(lambda: came_to(service, "watched") == 100)
        found = await quality(service)
        assert found["drift"]["since"] == same["since"]
        assert all(each["moved"] for each in found["drift"]["signals"])
        assert [each["about"] for each in found["findings"] if each["severity"] == "warning"].count("drift") == 2
        await until(lambda: service.sample("winnow_drift", collection="default", signal="query_distance") > 0.5)
        assert 0.1 < service.sample("winnow_drift_null", collection="default", signal="query_distance") < 0.3


async def test_memory_is_bounded_while_nobody_has_time_to_look(service_watched: Service) -> None:
    with service_watched.engine.observer.traffic.passing():
        await ask(service_watched, ["topic"] * (observer.WAITING + 20), rerank=False)
        await until(lambda: came_to(service_watched, "watched") == observer.WAITING + 20)
        assert (await quality(service_watched))["counts"]["waiting"] == observer.WAITING
        assert came_to(service_watched, "dropped") >= 19
        assert came_to(service_watched, "exact") + came_to(service_watched, "compared") <= 1


async def test_a_search_that_is_dropped_is_one_of_its_own_collection(service_watched: Service) -> None:
    await service_watched.client.post("/collections", json={"name": "other"})
    await service_watched.ingest(*documents(20), collection="other")
    with service_watched.engine.observer.traffic.passing():
        await ask(service_watched, ["topic"] * (observer.WAITING + 1), rerank=False)
        await until(lambda: came_to(service_watched, "watched") == observer.WAITING + 1)
        before = came_to(service_watched, "dropped")
        await ask(service_watched, ["topic"] * 5, rerank=False, collection="other")
        labels = {"collection": "other", "outcome": "watched"}
        await until(lambda: service_watched.sample("winnow_observed_queries_total", **labels) == 5)
        assert came_to(service_watched, "dropped") == before + 5
        dropped = service_watched.sample("winnow_observed_queries_total", collection="other", outcome="dropped")
        assert dropped == 0


async def test_a_reranker_that_breaks_ends_no_watch(tmp_path: Path) -> None:
    async with serving(watching(tmp_path, exact_below=4096)) as service:
        await service.ingest(*documents(100))
        reranker: Any = service.engine.scoring.reranker
        reranker._fail_on = "77"
        await ask(service, ["topic 1"], mode="dense", candidates=20)
        await until(lambda: came_to(service, "failed") == 1)
        reranker._fail_on = None
        await ask(service, ["topic 1"], mode="dense", candidates=20)
        await until(lambda: came_to(service, "deepened") == 1)


async def test_a_collection_that_is_dropped_leaves_nothing_behind(service_watched: Service) -> None:
    await service_watched.client.post("/collections", json={"name": "brief"})
    await service_watched.ingest(*documents(20), collection="brief")
    await service_watched.search("topic 1", collection="brief")
    labels = {"collection": "brief", "outcome": "exact"}
    await until(lambda: service_watched.sample("winnow_observed_queries_total", **labels) == 1)
    assert (await service_watched.client.delete("/collections/brief")).status_code == 204
    await until(
        lambda: (
            service_watched.engine.metrics.registry.get_sample_value("winnow_observed_queries_total", labels) is None
        )
    )
    problem(await service_watched.client.get("/quality", params={"collection": "brief"}), 404, "not-found")


async def test_a_collection_that_is_dropped_while_its_search_waits_for_a_second_look_stays_gone(
    service_watched: Service,
) -> None:
    await service_watched.client.post("/collections", json={"name": "brief"})
    await service_watched.ingest(*documents(20), collection="brief")
    with service_watched.engine.observer.traffic.passing():
        await service_watched.search("topic 1", collection="brief")
        watched = {"collection": "brief", "outcome": "watched"}
        await until(lambda: service_watched.sample("winnow_observed_queries_total", **watched) == 1)
        assert (await service_watched.client.delete("/collections/brief")).status_code == 204
        await quality(service_watched)  # by which the observer knows of it, too
    await service_watched.search("topic 1")
    await until(lambda: came_to(service_watched, "exact") == 1)
    assert '{collection="brief"' not in exposed(service_watched)


def exposed(service: Service) -> str:
    return generate_latest(service.engine.metrics.registry).decode()


async def test_a_share_of_nothing_watches_nothing(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, observe_share=0.0)) as service:
        await service.ingest(*documents(20))
        await ask(service, ["topic 1"])
        assert body(await service.client.get("/quality")) == {"watching": False, "collections": []}
        assert "winnow_observed_queries_total{" not in (await service.client.get("/metrics")).text
        problem(await service.client.post("/quality/reference"), 409, "conflict")
        await asyncio.sleep(0.3)
        assert service.sample("winnow_observe_seconds_total") == 0
