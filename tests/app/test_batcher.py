from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.allowance import Allowance, Meter
from app.batch import Lane, Ran
from app.batcher import LEAST_BUDGET, Batcher
from app.caller import Caller, acting
from app.device import Device
from app.errors import Overloaded, Unavailable
from app.telemetry import Metrics
from models.types import ModelError, OutOfMemory, Tokens
from tests.app.batching import Model, begin, marks, open_device, sample, serve, text
from tests.app.serving import until


def padded(batch: Sequence[Tokens]) -> int:
    return max(map(len, batch)) * len(batch)


async def test_values_come_back_in_the_order_of_the_texts(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics, budget=300)
    lengths = [90, 3, 250, 17, 90, 1, 500, 60]
    ran = await batcher.run([text(length, mark) for mark, length in enumerate(lengths)], "search")
    assert ran.values.tolist() == list(range(len(lengths)))
    assert ran.values.dtype == np.float32


async def test_parts_of_a_call_that_end_at_once_are_all_kept(device: Device, metrics: Metrics) -> None:
    both = threading.Barrier(2)

    class Meeting(np.ndarray):
        """Whoever looks at how its rows are made waits a moment for the other thread to do so."""

        @property  # type: ignore[misc]  # it is an attribute there
        def shape(self) -> tuple[int, ...]:
            with suppress(threading.BrokenBarrierError):
                both.wait(0.3)
            return super().shape

    def compute(batch: Sequence[Tokens]) -> NDArray[np.float32]:
        return marks(batch).view(Meeting)

    batcher = serve(compute, device, metrics, budget=10, abreast=2)
    ran = await batcher.run([text(10, 1), text(10, 2)], "search")
    assert ran.values.tolist() == [1, 2]


async def test_rows_come_back_as_rows(device: Device, metrics: Metrics) -> None:
    batcher = serve(lambda batch: np.outer(marks(batch), [1, 10]), device, metrics, budget=40)
    ran = await batcher.run([text(20, 1), text(30, 2), text(10, 3)], "ingest")
    assert ran.values.tolist() == [[1, 10], [2, 20], [3, 30]]


def cramped(tokens: int, batches: list[int]) -> Callable[[Sequence[Tokens]], NDArray[np.float32]]:
    """A model on a device with room for so many tokens at once."""

    def compute(batch: Sequence[Tokens]) -> NDArray[np.float32]:
        batches.append(padded(batch))
        if batches[-1] > tokens:
            raise OutOfMemory("no room")
        return marks(batch)

    return compute


async def test_a_batch_that_the_device_has_no_memory_for_is_computed_in_halves(
    device: Device, metrics: Metrics
) -> None:
    batches: list[int] = []
    batcher = serve(cramped(300, batches), device, metrics, budget=1000)
    texts = [text(50, mark) for mark in range(20)]
    assert (await batcher.run(texts, "search")).values.tolist() == list(range(20))
    failed = sum(size > 300 for size in batches)
    assert sample(metrics, "winnow_out_of_memory_total", model="model") == failed > 0
    batches.clear()
    assert (await batcher.run(texts, "search")).values.tolist() == list(range(20))
    assert max(batches) <= 300, "batches stay as small as they had to become"


async def test_batches_stay_useful_however_short_the_texts_were_that_there_was_no_memory_for(
    device: Device, metrics: Metrics
) -> None:
    sizes: list[int] = []

    def compute(batch: Sequence[Tokens]) -> NDArray[np.float32]:
        sizes.append(len(batch))
        if len(sizes) == 1:
            raise OutOfMemory("no room for now")
        return marks(batch)

    batcher, many = serve(compute, device, metrics, budget=1000), LEAST_BUDGET // 10
    await batcher.run([text(10)] * 2, "search")
    await batcher.run([text(10)] * many, "search")
    assert sizes == [2, 1, 1, many]


async def test_a_text_that_the_device_has_no_memory_for_fails_alone_and_says_why(
    device: Device, metrics: Metrics
) -> None:
    batcher = serve(cramped(300, []), device, metrics, budget=1000)
    with pytest.raises(ModelError, match="no room"):
        await batcher.run([text(400)], "search")
    assert (await batcher.run([text(50, 7)], "search")).values.tolist() == [7]


async def test_no_texts_have_no_values_and_wait_for_nobody(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    busy = await model.hold(batcher)
    ran = await batcher.run([], "search")
    assert len(ran.values) == 0
    assert ran.queued == ran.computed == 0
    model.gate.set()
    await busy


async def test_callers_share_a_batch(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    busy = await model.hold(batcher)
    tasks = await begin(*(batcher.run([text(20, mark), text(25, mark)], "search") for mark in range(1, 6)))
    model.gate.set()
    ran = await asyncio.gather(*tasks)
    assert [each.values.tolist() for each in ran] == [[mark, mark] for mark in range(1, 6)]
    assert len(model.batches) == 2
    await busy


async def test_a_batch_is_computed_while_nothing_else_waits_instead_of_waiting_for_company(
    device: Device, metrics: Metrics
) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    for mark in range(3):
        await batcher.run([text(5, mark)], "search")
    assert [len(batch) for batch in model.batches] == [1, 1, 1]


async def test_texts_of_unlike_length_do_not_pad_each_other(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics, budget=4000)
    busy = await model.hold(batcher)
    tasks = await begin(*(batcher.run([text(500), text(20), text(480), text(30)], "search") for _ in range(2)))
    model.gate.set()
    await asyncio.gather(busy, *tasks)
    assert [sorted(map(len, batch)) for batch in model.batches[1:]] == [[480, 480, 500, 500], [20, 20, 30, 30]]


async def test_a_short_old_text_shares_with_a_longer_new_one(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    busy = await model.hold(batcher)
    tasks = await begin(*(batcher.run([text(length)], "search") for length in (6, 20, 12)))
    model.gate.set()
    await asyncio.gather(busy, *tasks)
    assert [len(batch) for batch in model.batches] == [1, 3]


async def test_an_old_caller_is_not_passed_by_those_who_came_later(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics, budget=400)
    busy = await model.hold(batcher)
    old = [text(100, 1)] * 6 + [text(10, 1)] * 2
    tasks = await begin(*(batcher.run(texts, "search") for texts in (old, [text(100, 2)] * 20)))
    model.gate.set()
    await asyncio.gather(busy, *tasks)
    assert [marks(batch).tolist() for batch in model.batches[1:4]] == [[1] * 4, [1, 1, 2, 2], [1, 1]]


@given(
    budget=st.integers(64, 700),
    calls=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=12), min_size=1, max_size=8),
    lanes=st.lists(st.sampled_from(["search", "ingest"]), min_size=8, max_size=8),
    abreast=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_everyone_gets_their_own_values_in_their_own_order_from_batches_within_budget(
    budget: int, calls: list[list[int]], lanes: list[Lane], abreast: int
) -> None:
    model, texts = Model(), list[list[Tokens]]()
    for lengths in calls:
        first = sum(map(len, texts)) + 1
        texts.append([text(max(length, 1), first + place) for place, length in enumerate(lengths)])

    async def everyone(batcher: Batcher) -> list[Ran]:
        return await asyncio.gather(*(batcher.run(each, lane) for each, lane in zip(texts, lanes, strict=False)))

    with open_device() as device:
        batcher = serve(
            model, device, Metrics(), budget=budget, bulk_budget=budget, queue=1000, abreast=abreast
        )  # fmt: skip
        ran = asyncio.run(everyone(batcher))
    assert [each.values.tolist() for each in ran] == [marks(each).tolist() for each in texts]
    assert all(padded(batch) <= budget or len(batch) == 1 for batch in model.batches)
    assert model.seen == sorted(int(mark) for each in texts for mark in marks(each))


def test_several_event_loops_share_one_device(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(seconds=0.001), device, metrics, budget=100)
    results: dict[int, list[list[float]]] = {}

    async def many(mark: int) -> None:
        ran = await asyncio.gather(*(batcher.run([text(9, mark), text(30, mark + 100)], "search") for _ in range(10)))
        results[mark] = [each.values.tolist() for each in ran]

    threads = [threading.Thread(target=lambda mark=mark: asyncio.run(many(mark))) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == {mark: [[mark, mark + 100]] * 10 for mark in range(4)}


async def test_a_text_longer_than_the_budget_goes_alone(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics, budget=100)
    ran = await batcher.run([text(20, 1), text(150, 2), text(150, 3), text(20, 4)], "search")
    assert ran.values.tolist() == [1, 2, 3, 4]
    assert sorted(len(batch) for batch in model.batches if max(map(len, batch)) > 100) == [1, 1]


async def test_what_waits_is_shared_among_those_that_compute_at_once(device: Device, metrics: Metrics) -> None:
    model = Model()
    model.gate.clear()
    batcher = serve(model, device, metrics, bulk_budget=400, abreast=3)
    (work,) = await begin(batcher.run([text(80, mark) for mark in range(9)], "ingest"))
    await until(lambda: len(model.batches) == 3)
    assert sorted(len(batch) for batch in model.batches) == [2, 2, 3]
    model.gate.set()
    assert (await work).values.tolist() == list(range(9))
    assert sorted(len(batch) for batch in model.batches[3:]) == [1, 1]


async def test_a_model_that_takes_all_cores_for_a_batch_has_them_for_itself_and_its_turn(
    device: Device, metrics: Metrics
) -> None:
    several, single = Model(), Model()
    wide = serve(several, device, metrics, "several", budget=10, abreast=3)
    narrow = serve(single, device, metrics, "single", budget=10)
    held = await single.hold(narrow)
    (first,) = await begin(wide.run([text(10, mark) for mark in range(4)], "search"))
    (second,) = await begin(narrow.run([text(10, 8), text(10, 9)], "search"))
    await asyncio.sleep(0.05)
    assert several.batches == []
    several.gate.clear()
    single.gate.set()
    await held
    await until(lambda: len(several.batches) == 3)
    assert len(single.batches) == 1
    several.gate.set()
    assert (await first).values.tolist() == [0, 1, 2, 3]
    assert (await second).values.tolist() == [8, 9]


async def test_a_model_computes_no_more_batches_at_once_than_it_can_though_the_device_has_threads_for_more(
    device: Device, metrics: Metrics
) -> None:
    model = Model()
    serve(Model(), device, metrics, "wide", budget=10, abreast=3)
    batcher = serve(model, device, metrics, budget=10, abreast=2)
    model.gate.clear()
    (work,) = await begin(batcher.run([text(10, mark) for mark in range(6)], "search"))
    await until(lambda: len(model.batches) >= 2)
    await asyncio.sleep(0.1)
    assert len(model.batches) == 2
    model.gate.set()
    assert (await work).values.tolist() == list(range(6))


async def test_a_batch_lies_ready_for_a_model_that_wants_one_and_the_rest_is_shared_as_if_it_did_not(
    device: Device, metrics: Metrics
) -> None:
    model = Model()
    batcher = serve(model, device, metrics, budget=1000, abreast=2, ahead=1)
    model.gate.clear()
    (work,) = await begin(batcher.run([text(10, mark) for mark in range(16)], "search"))
    await until(lambda: len(model.batches) == 3)
    await asyncio.sleep(0.1)
    assert sorted(len(batch) for batch in model.batches) == [2, 4, 8]
    model.gate.set()
    assert (await work).values.tolist() == list(range(16))


async def test_a_model_is_not_taken_to_be_slower_for_a_batch_that_lay_ready(device: Device, metrics: Metrics) -> None:
    model = Model(seconds=0.05)
    with ThreadPoolExecutor(2) as streams:

        def compute(batch: Sequence[Tokens]) -> NDArray[np.float32]:
            return streams.submit(model, batch).result()

        batcher = serve(compute, device, metrics, budget=100, abreast=2, ahead=1)
        await batcher.run([text(100, mark) for mark in range(30)], "search")
    assert batcher.makes(1.0) == pytest.approx(2 * 100 / 0.05, rel=0.2)  # uncorrected, it would be two thirds of that


async def test_an_empty_text_has_a_value_too(device: Device, metrics: Metrics) -> None:
    batcher = serve(lambda batch: np.array([len(item) for item in batch]), device, metrics)
    assert (await batcher.run([text(0), text(2)], "search")).values.tolist() == [0, 2]


async def test_searches_overtake_ingest_that_waits_at_another_model(device: Device, metrics: Metrics) -> None:
    log: list[str] = []
    encoder, reranker = Model(log=log, name="encoder"), Model(log=log, name="reranker")
    encode, rerank = serve(encoder, device, metrics, "encoder"), serve(reranker, device, metrics, "reranker")
    busy = await encoder.hold(encode, "ingest")
    ingest = await begin(*(encode.run([text(400)], "ingest") for _ in range(5)))
    search = await begin(*(rerank.run([text(900)], "search") for _ in range(2)))
    encoder.gate.set()
    await asyncio.gather(busy, *ingest, *search)
    assert log == ["encoder", "reranker", "reranker"] + ["encoder"] * 5


async def test_the_model_whose_search_waited_longest_is_next(device: Device, metrics: Metrics) -> None:
    log: list[str] = []
    first, second = Model(log=log, name="first"), Model(log=log, name="second")
    one, two = serve(first, device, metrics, "first"), serve(second, device, metrics, "second")
    busy = await first.hold(one)
    work = [each.run([text(900)], "search") for each in (two, one, two, one)]
    tasks = await begin(*work)
    first.gate.set()
    await asyncio.gather(busy, *tasks)
    assert log == ["first", "second", "first", "second", "first"]


async def keep_busy(batcher: Batcher, lane: Lane, stop: asyncio.Event) -> int:
    """A caller who comes back at once, as long as it may."""
    count = 0
    while not stop.is_set():
        await batcher.run([text(300)], lane)
        count += 1
    return count


async def share_of_ingest(bulk_share: float) -> float:
    metrics, stop, model = Metrics(), asyncio.Event(), Model(seconds=0.004)
    with open_device(bulk_share) as device:
        batcher = serve(model, device, metrics, budget=300, bulk_budget=300)
        lanes: tuple[Lane, Lane] = ("search", "ingest")
        tasks = [asyncio.create_task(keep_busy(batcher, lane, stop)) for lane in lanes for _ in range(3)]
        await asyncio.sleep(1)
        stop.set()
        counts = await asyncio.gather(*tasks)
    return sum(counts[3:]) / sum(counts)


async def test_ingest_keeps_its_share_while_searches_never_pause() -> None:
    assert 0.1 < await share_of_ingest(0.25) < 0.4


async def test_a_share_of_nothing_leaves_ingest_the_pauses_only() -> None:
    assert await share_of_ingest(0) < 0.1


async def test_between_the_waves_of_a_search_no_ingest_begins(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.device.PAUSE", 60.0)
    model = Model()
    with open_device(bulk_share=0) as device:
        batcher = serve(model, device, metrics)
        with batcher.expecting():
            await batcher.run([text(1, 1)], "search")
            (taken,) = await begin(batcher.run([text(1, 3)], "ingest"))
            await batcher.run([text(1, 2)], "search")
            await asyncio.sleep(0.05)
            assert model.seen == [1, 2]
        await taken
    assert model.seen == [1, 2, 3]


async def test_no_ingest_begins_before_what_a_search_under_way_will_ask_for(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.device.PAUSE", 60.0)
    model = Model()
    with open_device(bulk_share=0) as device:
        batcher = serve(model, device, metrics)
        await batcher.run([text(1, 1)], "ingest")
        with batcher.expecting():
            (taken,) = await begin(batcher.run([text(1, 3)], "ingest"))
            await asyncio.sleep(0.05)
            await batcher.run([text(1, 2)], "search")
            assert model.seen == [1, 2]
        await taken
    assert model.seen == [1, 2, 3]


async def test_searches_that_ask_for_nothing_keep_no_ingest_waiting(device: Device, metrics: Metrics) -> None:
    batcher, stop = serve(Model(), device, metrics, bulk_budget=1), asyncio.Event()

    async def ask_for_nothing() -> None:
        while not stop.is_set():
            with batcher.expecting():
                await asyncio.sleep(0.005)

    searches = [asyncio.create_task(ask_for_nothing()) for _ in range(3)]
    assert (await asyncio.wait_for(batcher.run([text(1, 7)] * 5, "ingest"), 10)).values.tolist() == [7] * 5
    stop.set()
    await asyncio.gather(*searches)


async def test_no_ingest_begins_while_another_thread_computes_the_rest_of_a_wave(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.device.PAUSE", 0.01)
    model = Model()
    with open_device(bulk_share=0) as device:
        batcher = serve(model, device, metrics, budget=10, abreast=2)
        with batcher.expecting():
            held = await model.hold(batcher)
            (taken,) = await begin(batcher.run([text(1, 3)], "ingest"))
            await asyncio.sleep(0.1)
            assert len(model.batches) == 1
            model.gate.set()
            await held
        await taken
    assert model.seen == [0, 3]


async def test_a_search_that_does_not_come_back_for_its_next_wave_is_not_waited_for_long(
    device: Device, metrics: Metrics
) -> None:
    batcher = serve(Model(), device, metrics)
    with batcher.expecting():
        await batcher.run([text(1)], "search")
        assert (await asyncio.wait_for(batcher.run([text(1, 7)], "ingest"), 10)).values == [7]


async def test_between_waves_ingest_keeps_its_share(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.device.PAUSE", 60.0)
    model, stop = Model(seconds=0.004), asyncio.Event()
    with open_device(0.25) as device:
        batcher = serve(model, device, metrics, budget=300, bulk_budget=300)
        with batcher.expecting():
            taking = [asyncio.create_task(keep_busy(batcher, "ingest", stop)) for _ in range(3)]
            searches = 0
            while searches < 100:
                await batcher.run([text(300)], "search")
                searches += 1
            stop.set()
        taken = sum(await asyncio.gather(*taking))
    assert 0.1 < taken / (taken + searches) < 0.4


async def test_overload_is_refused_before_any_work_and_says_when_to_come_back(device: Device, metrics: Metrics) -> None:
    model = Model(seconds=0.2)
    batcher = serve(model, device, metrics, queue=1000)
    for _ in range(5):  # 1,000 tokens per second
        await batcher.run([text(200)], "search")
    before = len(model.batches)
    with batcher.admit(900), pytest.raises(Overloaded) as refused:
        batcher.admit(700)
    assert 0.4 < refused.value.retry_after < 30, "600 tokens must leave before there is room"
    assert len(model.batches) == before
    assert sample(metrics, "winnow_refusals_total", model="model") == 1


def test_a_key_that_asks_for_more_than_there_is_leaves_room_for_others(device: Device, metrics: Metrics) -> None:
    batcher, let_in = serve(Model(), device, metrics, queue=1000), Counter[str]()
    with ExitStack() as held:
        for name in ("greedy", "other", "third"):
            with acting(Caller(name, has_key=True)), suppress(Overloaded):
                while True:
                    held.enter_context(batcher.admit(100))
                    let_in[name] += 1
        assert let_in == {"greedy": 7, "other": 2, "third": 1}
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == 0


def test_without_keys_who_asks_for_all_there_is_gets_it(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics, queue=1000)
    with ExitStack() as held:
        for _ in range(10):
            held.enter_context(batcher.admit(100))


async def test_who_is_in_and_needs_more_goes_on_and_others_find_less(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics, queue=1000)
    with batcher.admit(600):
        with batcher.widen(5000), pytest.raises(Overloaded):
            batcher.admit(1)
        with batcher.admit(400):
            pass
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == 0


def test_who_is_refused_for_want_of_room_has_all_tokens_back(device: Device, metrics: Metrics) -> None:
    batcher, allowance = serve(Model(), device, metrics, queue=1000), Allowance(5000, lambda: 0.0)
    asking = Caller("key", has_key=True, meter=Meter(allowance))
    with batcher.admit(900), acting(asking), pytest.raises(Overloaded):
        batcher.admit(500)
    assert allowance.left() == 5000


async def test_what_waits_in_front_counts_for_how_long_a_search_takes(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    alone = batcher.takes(100)
    busy = await model.hold(batcher)
    waiting = await begin(batcher.run([text(250)], "search"), batcher.run([text(50)], "search"))
    assert batcher.takes(100) == pytest.approx(4 * alone, rel=0.02)
    model.gate.set()
    await asyncio.gather(busy, *waiting)


async def test_a_batch_that_is_computed_counts_for_how_long_a_search_takes(device: Device, metrics: Metrics) -> None:
    """Of whichever model of the device: half a second of the other's, and the search has no time to lose behind it."""
    model, other = Model(), Model()
    batcher = serve(model, device, metrics)
    ingest = serve(other, device, metrics, name="other", bulk_budget=10**6)
    alone = batcher.takes(100)
    other.gate.clear()
    (busy,) = await begin(ingest.run([text(10**5)], "ingest"))
    await asyncio.to_thread(other.begun.wait, 10)
    assert batcher.takes(100) > 100 * alone
    other.gate.set()
    await busy
    await until(lambda: batcher.takes(100) == pytest.approx(alone))  # its thread is free a moment after the caller


def test_the_time_to_come_back_is_never_nothing(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics, queue=10)
    with batcher.admit(10), pytest.raises(Overloaded) as refused:
        batcher.admit(1)
    assert refused.value.retry_after >= 0.1


async def test_a_slow_model_lets_in_no_more_than_it_can_do_in_time(device: Device, metrics: Metrics) -> None:
    slow = Model(seconds=0.2)
    batcher = serve(slow, device, metrics, queue=10**6, patience=0.5)
    for _ in range(5):  # 1,000 tokens per second
        await batcher.run([text(200)], "search")
    with batcher.admit(300), pytest.raises(Overloaded) as refused:
        batcher.admit(490)
    assert refused.value.retry_after >= 0.2


async def test_as_long_as_nothing_was_measured_room_is_counted_in_tokens_alone(
    device: Device, metrics: Metrics
) -> None:
    batcher = serve(Model(), device, metrics, queue=10**6, patience=0.001)
    with batcher.admit(5 * 10**5):
        with batcher.admit(5 * 10**5):
            pass
        await batcher.run([text(2000)], "search")
        with pytest.raises(Overloaded):
            batcher.admit(5 * 10**5)


async def test_a_batch_of_next_to_nothing_says_nothing_of_the_rate(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(seconds=0.2), device, metrics, queue=10**6, patience=0.5)
    for _ in range(5):
        await batcher.run([text(2)], "search")
    with batcher.admit(1000), batcher.admit(1000):
        pass


async def test_a_small_batch_tells_of_the_rate_where_it_was_faster_than_that(device: Device, metrics: Metrics) -> None:
    """Whoever goes by a rate that is too low sends none that is larger."""
    batcher = serve(Model(), device, metrics, budget=10**6)
    guessed = batcher.takes(5000)
    await batcher.run([text(2000)], "search")
    assert batcher.takes(5000) < guessed


async def test_a_rate_is_doubted_once_it_is_old_and_by_one_at_a_time(
    device: Device, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = serve(Model(), device, metrics)
    assert not batcher.may_be_faster()
    monkeypatch.setattr("app.batcher.DOUBT", 0.0)
    assert batcher.may_be_faster()
    monkeypatch.setattr("app.batcher.DOUBT", 60.0)
    assert not batcher.may_be_faster()


def test_a_request_larger_than_the_queue_is_let_in_alone(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics, queue=100)
    with batcher.admit(500):
        with pytest.raises(Overloaded):
            batcher.admit(1)
        assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == 500
    with batcher.admit(1), pytest.raises(Overloaded):
        batcher.admit(500)
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == 0


def test_room_is_free_again_after_an_error(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics, queue=100)
    with suppress(KeyError), batcher.admit(100):
        raise KeyError
    with batcher.admit(100):
        pass


@given(st.lists(st.tuples(st.integers(0, 130), st.booleans()), max_size=40))
@settings(max_examples=60, deadline=None)
def test_admitted_tokens_never_exceed_the_bound(requests: list[tuple[int, bool]]) -> None:
    metrics, held = Metrics(), list[tuple[int, ExitStack]]()
    with open_device() as device:
        batcher = serve(Model(), device, metrics, queue=100)
        for tokens, leave in requests:
            if leave and held:
                held.pop(0)[1].close()
            taken = sum(each for each, _ in held)
            stack = ExitStack()
            try:
                stack.enter_context(batcher.admit(tokens))
                held.append((tokens, stack))
            except Overloaded:
                assert taken
                assert taken + tokens > 100
            taken = sum(each for each, _ in held)
            assert taken <= 100 or sum(each > 0 for each, _ in held) == 1
            assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == taken


def test_admission_from_many_threads_keeps_the_bound(device: Device, metrics: Metrics) -> None:
    batcher, now, most, lock = serve(Model(), device, metrics, queue=100), [0], [0], threading.Lock()

    def come_and_go() -> None:
        for _ in range(200):
            with suppress(Overloaded), batcher.admit(30):
                with lock:
                    now[0] += 30
                    most[0] = max(most[0], now[0])
                time.sleep(0)
                with lock:
                    now[0] -= 30

    threads = [threading.Thread(target=come_and_go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 90
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == 0


async def test_ingest_waits_for_room_instead_of_being_refused(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics, queue=100)
    busy = await model.hold(batcher, "ingest")
    tasks = await begin(*(batcher.run([text(40, mark)], "ingest") for mark in range(1, 9)))
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="ingest") == 81
    tasks[-1].cancel()
    model.gate.set()
    ran = await asyncio.gather(*tasks[:-1])
    assert [each.values.tolist() for each in ran] == [[mark] for mark in range(1, 8)]
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="ingest") == 0
    assert 8 not in model.seen
    await busy


async def test_the_texts_of_a_cancelled_caller_are_never_computed(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    busy = await model.hold(batcher)
    left, stayed = await begin(batcher.run([text(9, 1)] * 3, "search"), batcher.run([text(9, 2)], "search"))
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    model.gate.set()
    assert (await stayed).values.tolist() == [2]
    assert model.seen == [0, 2]
    assert sample(metrics, "winnow_abandoned_total", model="model") == 3
    await busy


async def test_a_batch_that_runs_when_a_caller_leaves_still_serves_the_others(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    busy = await model.hold(batcher)
    left, stayed = await begin(batcher.run([text(9, 1)] * 2, "search"), batcher.run([text(9, 2)], "search"))
    model.begun.clear()
    model.seconds = 0.2
    model.gate.set()
    await asyncio.to_thread(model.begun.wait, 10)
    left.cancel()
    assert (await stayed).values.tolist() == [2]
    with pytest.raises(asyncio.CancelledError):
        await left
    assert model.seen == [0, 1, 1, 2]
    assert sample(metrics, "winnow_abandoned_total", model="model") == 0
    await busy


@given(
    calls=st.lists(
        st.tuples(
            st.lists(st.integers(1, 60), min_size=1, max_size=8),
            st.sampled_from(["stays", "leaves at once", "leaves later", "breaks"]),
            st.sampled_from(["search", "ingest"]),
        ),
        min_size=1,
        max_size=10,
    )
)
@settings(max_examples=60, deadline=None)
def test_whoever_leaves_or_breaks_the_books_are_even_in_the_end(calls: list[tuple[list[int], str, Lane]]) -> None:
    metrics, model = Metrics(), Model(seconds=0.0005)

    async def one(batcher: Batcher, mark: int) -> Ran:
        lengths, fate, lane = calls[mark]
        texts = [text(length, -1 if fate == "breaks" else mark) for length in lengths]
        return await asyncio.wait_for(batcher.run(texts, lane), 0.002 if fate == "leaves later" else None)

    async def everyone(batcher: Batcher) -> list[Ran | BaseException]:
        tasks = await begin(*(one(batcher, mark) for mark in range(len(calls))))
        for task, (_, fate, _) in zip(tasks, calls, strict=True):
            if fate == "leaves at once":
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with open_device() as device:
        results = asyncio.run(everyone(serve(model, device, metrics, budget=100, bulk_budget=80, queue=150)))
        assert asyncio.run(serve(model, device, metrics, "other").run([text(1, 5)], "ingest")).values == [5]
    for mark, (result, (lengths, fate, _)) in enumerate(zip(results, calls, strict=True)):
        if isinstance(result, Ran):
            assert result.values.tolist() == [mark] * len(lengths)
        else:
            assert isinstance(result, ModelError) or fate.startswith("leaves")
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="ingest") == 0


async def test_a_failing_batch_fails_only_its_own_callers(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics, budget=100)
    busy = await model.hold(batcher)
    bad, beside, apart = await begin(
        batcher.run([text(90, -1), text(20, 1), text(20, 1)], "search"),
        batcher.run([text(90, 2)], "search"),
        batcher.run([text(20, 3)], "search"),
    )
    model.gate.set()
    with pytest.raises(ModelError, match="cannot bear"):
        await bad
    assert (await beside).values.tolist() == [2]
    assert (await apart).values.tolist() == [3]
    assert 1 not in model.seen
    await busy


async def test_callers_in_one_failing_batch_all_hear_of_it(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    busy = await model.hold(batcher)
    tasks = await begin(*(batcher.run([text(20, mark)], "search") for mark in (1, -1, 2)))
    model.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, ModelError) for each in results)
    await busy


@pytest.mark.parametrize(
    "broken",
    [
        lambda batch: np.zeros(len(batch) + 1, np.float32),
        lambda batch: np.float32(0),
        lambda batch: np.zeros((len(batch), len(batch[0])), np.float32),
        lambda batch: next(iter(())),
        lambda batch: int("x"),
        lambda batch: exec("raise SystemExit"),
    ],
)
async def test_whatever_a_model_does_its_thread_lives_on(
    broken: Callable[[Sequence[Tokens]], NDArray[np.float32]], device: Device, metrics: Metrics
) -> None:
    bad, good = serve(broken, device, metrics, "bad", budget=60), serve(Model(), device, metrics, "good")
    with pytest.raises((ModelError, RuntimeError, ValueError)):
        await bad.run([text(60, 1), text(40, 2)], "search")
    assert (await good.run([text(3, 7)], "search")).values.tolist() == [7]


def test_a_loop_that_was_closed_takes_nobody_with_it(device: Device, metrics: Metrics) -> None:
    model = Model()
    batcher = serve(model, device, metrics)
    loop = asyncio.new_event_loop()
    gone = loop.create_task(batcher.run([text(2, 1)], "search"))
    model.gate.clear()
    loop.run_until_complete(asyncio.sleep(0))
    assert model.begun.wait(10)
    loop.close()
    model.gate.set()
    assert asyncio.run(batcher.run([text(2, 2)], "search")).values.tolist() == [2]
    gone._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_the_event_loop_keeps_ticking_while_the_device_is_busy(device: Device, metrics: Metrics) -> None:
    ticks = 0

    def crunch(batch: Sequence[Tokens]) -> NDArray[np.float32]:
        seen, deadline = ticks, time.monotonic() + 10
        while ticks < seen + 10:
            assert time.monotonic() < deadline, "the loop waits for the device"
            time.sleep(0.001)
        return marks(batch)

    batcher = serve(crunch, device, metrics, budget=2000)
    tasks = await begin(*(batcher.run([text(10 + mark, mark)] * 50, "search") for mark in range(8)))
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.001)
        ticks += 1
    await asyncio.gather(*tasks)


async def test_close_wakes_those_who_wait_and_turns_away_those_who_come(metrics: Metrics) -> None:
    device, model = Device("test", 0.1, 60.0), Model()
    batcher = serve(model, device, metrics, queue=50)
    busy = await model.hold(batcher)
    waiting = await begin(*(batcher.run([text(30, 1)], lane) for lane in ("search", "ingest", "ingest", "ingest")))
    closing = asyncio.create_task(asyncio.to_thread(device.close))
    for task in waiting:
        with pytest.raises(Unavailable):
            await task
    model.gate.set()
    await closing
    assert len((await busy).values) == 1
    with pytest.raises(Unavailable):
        await batcher.run([text(1)], "search")
    with pytest.raises(Unavailable):
        batcher.admit(1)
    assert model.seen == [0]
    device.close()


async def test_a_call_says_how_long_it_queued_and_how_long_it_was_computed(device: Device, metrics: Metrics) -> None:
    model = Model(seconds=0.1)
    batcher = serve(model, device, metrics)
    ran = await asyncio.gather(*(batcher.run([text(900)], "search") for _ in range(2)))
    assert ran[0].computed >= 0.1
    assert ran[1].queued >= 0.1
    assert ran[1].computed >= 0.1


async def test_batches_are_measured_by_model_and_lane(device: Device, metrics: Metrics) -> None:
    batcher = serve(Model(), device, metrics)
    await batcher.run([text(10), text(30)], "search")
    await batcher.run([text(40)], "ingest")
    assert sample(metrics, "winnow_batch_tokens_sum", model="model", lane="search") == 60
    assert sample(metrics, "winnow_batch_tokens_sum", model="model", lane="ingest") == 40
    assert sample(metrics, "winnow_batch_padding_share_sum", model="model", lane="search") == pytest.approx(1 / 3)
