"""What a search sets aside of the reranker's room, and what it learns from those before it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.device import Device
from app.sharer import Memory, Sharer
from app.stages.rerank import NARROWEST, Parts, Ranker, cost
from app.telemetry import Lap, Metrics
from app.types import Seen
from models.fake import FakeReranker
from tests.app.batching import sample, serve

USUAL = 100.0
"""Tokens of a pair, as long as nothing was read."""


@pytest.fixture
def ranker(device: Device, metrics: Metrics) -> Ranker:
    reranker = FakeReranker()
    batcher = serve(reranker.score, device, metrics, queue=10**6)
    return Ranker(reranker, Sharer(batcher, Memory(0), metrics), metrics, USUAL)


def taken(metrics: Metrics) -> float:
    return sample(metrics, "winnow_queue_tokens", model="model", lane="search")


async def parts(ranker: Ranker, query: str, *texts: str) -> list[Parts]:
    with ThreadPoolExecutor(1) as threads:
        return await ranker.read(query, texts, "window", threads)


def test_a_search_that_may_stop_early_sets_aside_as_much_as_it_will_read_at_least(
    ranker: Ranker, metrics: Metrics
) -> None:
    for _ in range(50):
        ranker.stopped(0.2)
    for candidates, wanted, pairs in ((100, 10, 20), (100, 40, 40), (10, 40, 10)):
        with ranker.admit(candidates, adaptive=True, wanted=wanted):
            assert taken(metrics) == pytest.approx(pairs * USUAL, rel=0.01)
    with ranker.admit(100, wanted=10):
        assert taken(metrics) == 100 * USUAL


def test_a_search_sets_aside_no_more_than_can_be_read_in_the_time_that_it_has(ranker: Ranker, metrics: Metrics) -> None:
    for seconds in (0.01, 0.002, -1.0):
        with ranker.admit(100, seconds=seconds):
            assert taken(metrics) == pytest.approx(max(seconds, 0) / ranker.batcher.takes(1), abs=1)
    with ranker.admit(100, seconds=3600.0):
        assert taken(metrics) == 100 * USUAL


async def test_what_others_ask_of_the_reranker_tells_nothing_of_what_searches_cost(
    ranker: Ranker, metrics: Metrics
) -> None:
    few = await parts(ranker, "a", "b")
    for _ in range(20):
        await ranker.score(few, Lap())
    with ranker.admit(1):
        assert taken(metrics) == USUAL
    for _ in range(50):
        ranker.learn(few)
    with ranker.admit(1):
        assert taken(metrics) == pytest.approx(cost(few[0]), abs=1)


async def test_windows_count_by_themselves_and_not_for_searches_to_come(ranker: Ranker, metrics: Metrics) -> None:
    read = await parts(ranker, "river " * 460, "short", "word " * 400)
    assert len(read[0]) == 1 < len(read[1])
    whole, firsts = sum(map(cost, read)), sum(len(each[0].pair) for each in read)
    with ranker.widen(read):
        assert taken(metrics) == whole - firsts > 0
    for _ in range(50):
        ranker.learn(read)
    with ranker.admit(2):
        assert taken(metrics) == pytest.approx(firsts, abs=2)


async def test_beside_a_query_that_takes_all_the_room_a_text_is_read_in_narrow_windows(ranker: Ranker) -> None:
    """Of the query each of them shows less than the reranker has room for; the widest one tells how much."""
    (read,) = texts = await parts(ranker, "river " * 600, " ".join(["word"] * 200))
    spans = [part.span for part in read]
    assert spans == [(5 * start, 5 * min(start + NARROWEST, 200) - 1) for start in (0, 48, 96, 144)]
    unseen = [part.pair.total - len(part.pair) for part in read]
    assert unseen[0] > unseen[-1]
    scored = await ranker.score(texts, Lap())
    assert scored.seen == [Seen(802, 802 - unseen[0])]


async def test_a_text_without_tokens_is_one_window(ranker: Ranker) -> None:
    (read,) = await parts(ranker, "river " * 600, "")
    (part,) = read
    assert part.span == (0, 0)
