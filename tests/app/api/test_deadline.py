"""Reranking that ends before the last candidate: because time is up, or because the top has come to rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from threading import Event
from time import sleep

import pytest

from models.fake import FakeEncoder, FakeReranker
from models.types import Scores, Tokens
from tests.app.serving import PATIENCE, Json, Service, body, documents, fakes, pointers, problem, serving

QUERY = "green river"
AMPLE = 60_000


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Service]:
    """Reranking takes 5 ms a text: a quarter of a second for fifty."""
    async with serving(fakes(tmp_path, reranker="fake:slow", batch_tokens=64)) as service:
        await service.ingest(*({"id": f"d{n}", "text": f"a river {'green ' * (n % 7)} {n}"} for n in range(80)))
        yield service


async def in_part(slow: Service, query: str) -> Json:
    """An answer that there was time to read some of the candidates for, and not all."""
    await slow.search(query)  # from now on it is known how much time they take
    deadline, found = 50.0, Json(reranked=0)
    while not 0 < found["reranked"] < 50:
        assert deadline < AMPLE, "it is always none or all of them"
        found = await slow.search(query, deadline_ms=int(deadline), top_k=50)
        deadline *= 1.2  # a machine that others use takes longer for the first stage alone
    return found


async def test_who_has_time_gets_everything_reranked(slow: Service) -> None:
    found = await slow.search(QUERY, deadline_ms=AMPLE)
    assert (found["candidates"], found["reranked"]) == (50, 50)
    assert "degraded" not in found
    without = await slow.search(QUERY)
    assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in without["hits"]]


async def test_a_deadline_that_comes_before_the_end_is_kept_and_said(slow: Service) -> None:
    before = slow.sample("winnow_degraded_answers_total", stage="rerank", reason="deadline")
    found = await slow.search(QUERY, deadline_ms=120, top_k=50)
    assert found["degraded"] == {"stage": "rerank", "reason": "deadline"}
    assert found["reranked"] < found["candidates"] == len(found["hits"]) == 50
    assert sum("rerank" in hit["stages"] for hit in found["hits"]) == found["reranked"]
    assert [hit["score"] for hit in found["hits"]] == sorted((hit["score"] for hit in found["hits"]), reverse=True)
    assert slow.sample("winnow_degraded_answers_total", stage="rerank", reason="deadline") == before + 1


async def test_without_time_for_any_the_first_stage_answers(slow: Service) -> None:
    found = await slow.search(QUERY, deadline_ms=1)
    assert found["reranked"] == 0
    assert found["degraded"] == {"stage": "rerank", "reason": "deadline"}
    first = await slow.search(QUERY, rerank=False)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(hit["id"], hit["score"]) for hit in first["hits"]]


async def test_a_search_that_finds_nothing_is_not_late(slow: Service) -> None:
    found = await slow.search(QUERY, deadline_ms=1, filter={"n": 1})
    assert found["hits"] == []
    assert "degraded" not in found


async def test_a_moment_that_was_slow_does_not_keep_searches_with_a_deadline_from_being_reranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as none of them is read, nothing else would show that the model is fast again."""
    plain, busy = FakeReranker.score, Event()

    def score(model: FakeReranker, batch: Sequence[Tokens]) -> Scores:
        if busy.is_set():
            busy.clear()
            sleep(3.0)
        return plain(model, batch)

    monkeypatch.setattr(FakeReranker, "score", score)
    monkeypatch.setattr("app.service.readiness.PAUSE_SECONDS", 600.0)
    async with serving(fakes(tmp_path, batch_tokens=64)) as service:
        await service.ingest(*documents(20, "river {0}"))
        busy.set()
        await service.search("river", candidates=4, top_k=4)
        async with asyncio.timeout(PATIENCE):
            while not (await service.search("river", deadline_ms=200))["reranked"]:
                pass


async def test_what_was_not_read_stands_behind_what_was_and_is_not_mistaken_for_it(slow: Service) -> None:
    """The fake reranker has no blend: by it alone unread candidates are equals, in the order of the first stage."""
    words = [f"word{n}" for n in range(60)]
    await slow.ingest(*({"id": f"w{n}", "text": " ".join(words[: n + 1])} for n in range(60)))
    found = await in_part(slow, " ".join(words))
    read = [hit for hit in found["hits"] if "rerank" in hit["stages"]]
    unread = [hit for hit in found["hits"] if "rerank" not in hit["stages"]]
    assert {hit["score"] for hit in unread} == {min(hit["score"] for hit in read)}
    assert len({hit["score"] for hit in read}) > 1
    ranks = [hit["stages"]["fused"]["rank"] for hit in unread]
    assert ranks == sorted(ranks)


async def test_auto_stops_where_no_more_could_come_among_the_best(service: Service) -> None:
    await service.ingest(*({"id": f"d{n}", "text": f"{'green ' * (n < 20)}river water {n}"} for n in range(150)))
    every = await service.search(QUERY, candidates=100)
    auto = await service.search(QUERY, candidates="auto")
    assert (every["reranked"], auto["candidates"]) == (100, 50)
    assert auto["reranked"] == 10, "what else may be as good is not better"
    assert {hit["score"] for hit in auto["hits"]} == {hit["score"] for hit in every["hits"]}
    assert "degraded" not in auto, "it was not for want of time"


async def test_auto_reads_all_where_nothing_tells_which_of_them_could_be_the_best(service: Service) -> None:
    """The fake reranker has no blend: what the first stage thinks counts for nothing."""
    words = [f"word{n}" for n in range(60)]
    await service.ingest(*({"id": f"d{n}", "text": " ".join(words[: n + 1])} for n in range(60)))
    auto = await service.search(" ".join(words), candidates="auto")
    assert auto["reranked"] == auto["candidates"] == 50


@pytest.mark.parametrize(
    "more", [{"group_by": "document"}, {"distinct": True}, {"diversity": 0.5}, {"recency": {"weight": 5.0}}], ids=str
)
async def test_auto_reads_all_where_others_than_the_best_may_be_shown(service: Service, more: Json) -> None:
    """Many chunks of one document are the best: what else is shown is in the order of the reranker too."""
    newer = {"date": "2025-01-01"}
    await service.ingest(
        {"id": "long", "text": "green river " * 3000, "metadata": {"date": "2001-01-01"}},
        *({"id": f"d{n}", "text": f"green river and water {n}" + " more" * n, "metadata": newer} for n in range(9)),
    )
    every = await service.search("green river", candidates=50, top_k=4, **more)
    auto = await service.search("green river", candidates="auto", top_k=4, **more)
    assert auto["reranked"] == auto["candidates"] > 20
    assert [hit["id"] for hit in auto["hits"]] == [hit["id"] for hit in every["hits"]]
    assert (await service.search("green river", candidates="auto", top_k=4))["reranked"] == 4


async def test_no_ingest_begins_between_the_waves_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def record(kind: type[FakeEncoder | FakeReranker], method: str) -> None:
        plain = getattr(kind, method)

        def recorded(model: object, batch: Sequence[Tokens]) -> object:
            done.append(method)
            return plain(model, batch)

        monkeypatch.setattr(kind, method, recorded)

    record(FakeEncoder, "encode")
    record(FakeReranker, "score")
    monkeypatch.setattr("app.device.PAUSE", 60.0)
    async with serving(fakes(tmp_path, reranker="fake:slow", bulk_share=0, bulk_batch_tokens=256)) as service:
        words = [f"word{n}" for n in range(60)]
        await service.ingest(*({"id": f"d{n}", "text": " ".join(words[: n + 1])} for n in range(60)))
        done.clear()
        more = [{"id": f"lake{number}", "text": f"lake {number}"} for number in range(600)]
        await service.client.post("/ingest", json={"documents": more, "wait": False})
        assert (await service.search(" ".join(words), candidates="auto"))["reranked"] == 50
        assert body(await service.client.get("/collections/default"))["pending"], "there was ingest to wait"
    waves = [number for number, method in enumerate(done) if method == "score"]
    assert waves == list(range(waves[0], waves[0] + len(waves)))
    assert len(waves) > 1


async def test_auto_goes_as_deep_as_the_setting_says_and_deep_enough_for_the_answer(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, auto_candidates=20)) as service:
        await service.ingest(*({"id": f"d{n}", "text": f"river {n}"} for n in range(60)))
        assert (await service.search("river", candidates="auto"))["candidates"] == 20
        assert (await service.search("river", candidates="auto", top_k=40))["candidates"] == 40


async def test_room_is_asked_for_as_much_as_searches_that_stop_have_read(service: Service) -> None:
    """Otherwise many would be refused for want of room that nobody takes."""
    await service.ingest(*documents(60, "river {0}"))
    ranker = service.engine.collections.shelf("default").ranker

    def room(*, adaptive: bool) -> float:
        with ranker.admit(50, adaptive=adaptive):
            return service.sample("winnow_queue_tokens", model="reranker:fake", lane="search")

    assert room(adaptive=True) == room(adaptive=False)
    for number in range(12):
        answer = await service.search(f"river {number}", candidates="auto")
    expected = answer["reranked"] / 50 * room(adaptive=False)
    assert room(adaptive=True) == pytest.approx(expected, rel=0.15)


async def test_room_is_asked_for_by_what_pairs_of_the_searches_before_were_long(service: Service) -> None:
    await service.ingest(*documents(20, "river {0}"))
    for number in range(20):
        await service.search(f"river {number}")
    (hit,) = (await service.search("river 3", candidates=1, top_k=1))["hits"]
    with service.engine.collections.shelf("default").ranker.admit(100):
        taken = service.sample("winnow_queue_tokens", model="reranker:fake", lane="search")
    assert taken == pytest.approx(100 * hit["tokens"]["total"], rel=0.1)


async def test_searches_with_a_deadline_are_not_refused_for_what_they_have_no_time_to_read(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, reranker="fake:slow", batch_tokens=64, queue_seconds=0.4)) as service:
        await service.ingest(*documents(60, "a green river {0}"))
        await service.search(QUERY)  # from now on it is known how much time they take: a quarter of a second

        async def asked(**more: object) -> list[int]:
            bodies = [{"query": f"river {n}", "candidates": 50, **more} for n in range(4)]
            answers = await asyncio.gather(*(service.client.post("/search", json=each) for each in bodies))
            return [each.status_code for each in answers]

        assert 429 in await asked()
        assert await asked(deadline_ms=60) == [200] * 4


async def test_auto_may_be_what_searches_get_that_do_not_say(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, candidates="auto")) as service:
        await service.ingest(*({"id": f"d{n}", "text": f"river {n}"} for n in range(60)))
        usual = await service.search("river")
        assert usual["reranked"] < usual["candidates"] == 50
        assert (await service.search("river", candidates=30))["reranked"] == 30


async def test_both_may_be_asked_for_together(slow: Service) -> None:
    found = await slow.search(QUERY, candidates="auto", deadline_ms=AMPLE)
    assert found["reranked"] < found["candidates"]
    assert "degraded" not in found


@pytest.mark.parametrize(
    ("wrong", "where"), [({"candidates": "all"}, "/candidates"), ({"deadline_ms": 0}, "/deadline_ms")]
)
async def test_what_can_not_be_is_refused(service: Service, wrong: dict[str, object], where: str) -> None:
    answer = await service.client.post("/search", json={"query": "x", **wrong})
    problem(answer, 422, "invalid")
    assert all(pointer.startswith(where) for pointer in pointers(answer))
