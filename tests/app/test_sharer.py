"""What many ask for is computed once, whoever comes, leaves or fails meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.batch import Ran
from app.device import Device
from app.errors import Unavailable
from app.sharer import ENTRY_BYTES, SEATS, Memory, Sharer, key_of
from app.telemetry import Lap, Metrics
from models.types import ModelError, Tokens
from tests.app.batching import Model, begin, marks, open_device, sample, serve, text
from tests.app.serving import documents, fakes, serving

AMPLE = 2**20


def share(
    model: Callable[[Sequence[Tokens]], NDArray[np.float32]], device: Device, metrics: Metrics, memory: int = 0
) -> Sharer:
    return Sharer(serve(model, device, metrics), Memory(memory), metrics)


def sources(metrics: Metrics) -> dict[str, float]:
    told = ("computed", "shared", "remembered")
    return {source: sample(metrics, "winnow_texts_total", model="model", source=source) for source in told}


async def test_a_text_that_many_ask_for_at_once_is_computed_once(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    busy = await model.hold(sharer.batcher)
    tasks = await begin(*(sharer.run([text(9, 1), text(9, 2), text(9, 10 + caller)]) for caller in range(8)))
    model.gate.set()
    ran = await asyncio.gather(*tasks)
    assert [each.values.tolist() for each in ran] == [[1, 2, 10 + caller] for caller in range(8)]
    assert model.seen == [0, 1, 2, *range(10, 18)]
    assert sources(metrics) == {"computed": 10, "shared": 14, "remembered": 0}
    await busy


async def test_a_text_that_one_caller_brings_twice_is_computed_once(device: Device, metrics: Metrics) -> None:
    model = Model()
    ran = await share(model, device, metrics).run([text(5, 1), text(7, 2), text(5, 1)])
    assert ran.values.tolist() == [1, 2, 1]
    assert model.seen == [1, 2]
    assert sources(metrics) == {"computed": 2, "shared": 1, "remembered": 0}


async def test_what_is_on_its_way_is_joined_while_it_is_computed(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    model.gate.clear()
    (first,) = await begin(sharer.run([text(9, 1)]))
    await asyncio.to_thread(model.begun.wait, 10)
    (second,) = await begin(sharer.run([text(9, 1)]))
    model.gate.set()
    assert (await first).values.tolist() == (await second).values.tolist() == [1]
    assert model.seen == [1]


async def test_without_a_memory_what_was_computed_is_computed_again(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    for _ in range(2):
        assert (await sharer.run([text(9, 1)])).values.tolist() == [1]
    assert model.seen == [1, 1]


async def test_no_texts_have_no_values(device: Device, metrics: Metrics) -> None:
    ran = await share(Model(), device, metrics).run([])
    assert len(ran.values) == ran.queued == ran.computed == 0


async def test_rows_are_shared_and_remembered_as_rows(device: Device, metrics: Metrics) -> None:
    sharer = share(lambda batch: np.outer(marks(batch), [1, 10]), device, metrics, AMPLE)
    ran = await asyncio.gather(*(sharer.run([text(3, 1), text(4, mark)]) for mark in (2, 3)))
    assert [each.values.tolist() for each in ran] == [[[1, 10], [2, 20]], [[1, 10], [3, 30]]]
    again = await sharer.run([text(4, 3), text(4, 4), text(3, 1)])
    assert again.values.tolist() == [[3, 30], [4, 40], [1, 10]]
    assert again.values.dtype == np.float32


async def test_texts_that_differ_in_their_types_alone_are_two(device: Device, metrics: Metrics) -> None:
    ids = np.array([7, 8], np.int32)
    texts = [Tokens(ids, np.array(types, np.int32), 2) for types in ([0, 0], [0, 1])]
    sharer = share(lambda batch: np.array([each.types.sum() for each in batch], np.float32), device, metrics, AMPLE)
    for _ in range(2):
        assert (await sharer.run(texts)).values.tolist() == [0, 1]


async def test_who_leaves_has_waited_for_the_model_until_it_began(device: Device, metrics: Metrics) -> None:
    """As a search does whose deadline comes: it is told apart whether there was too much to do or too slow a model."""
    model, in_line, in_work = Model(), Lap(), Lap()
    sharer = share(model, device, metrics)
    busy = await model.hold(sharer.batcher)
    (left,) = await begin(sharer.run([text(9, 1)], in_line))
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.wait([left])
    assert in_line.queued > 0.03
    model.gate.set()
    await busy
    model.gate.clear()
    model.begun.clear()
    asked = perf_counter()
    (left,) = await begin(sharer.run([text(9, 2)], in_work))
    await asyncio.to_thread(model.begun.wait, 10)
    waited = perf_counter() - asked
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.wait([left])
    assert in_work.queued <= waited
    model.gate.set()


async def test_one_caller_leaves_and_the_other_still_gets_its_values(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    busy = await model.hold(sharer.batcher)
    left, stayed = await begin(*(sharer.run([text(9, 1), text(9, 2)]) for _ in range(2)))
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    model.gate.set()
    assert (await stayed).values.tolist() == [1, 2]
    assert model.seen == [0, 1, 2]
    assert sample(metrics, "winnow_abandoned_total", model="model") == 0
    await busy


async def test_what_the_last_caller_leaves_behind_is_never_computed(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    busy = await model.hold(sharer.batcher)
    tasks = await begin(*(sharer.run([text(9, 1), text(9, 2)]) for _ in range(2)))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    model.gate.set()
    assert (await sharer.run([text(9, 3)])).values.tolist() == [3]
    assert model.seen == [0, 3]
    assert sample(metrics, "winnow_abandoned_total", model="model") == 2
    await busy


async def test_what_one_of_two_callers_alone_had_asked_for_goes_with_it(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    busy = await model.hold(sharer.batcher)
    left, stayed = await begin(
        sharer.run([text(9, mark) for mark in range(1, 1001)]), sharer.run([text(9, mark) for mark in range(1, 11)])
    )
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    model.gate.set()
    assert (await stayed).values.tolist() == list(range(1, 11))
    assert model.seen == list(range(SEATS + 1))
    await busy


async def test_who_comes_as_the_last_one_leaves_does_not_go_with_them(device: Device, metrics: Metrics) -> None:
    model = Model()
    sharer = share(model, device, metrics)
    busy = await model.hold(sharer.batcher)
    (left,) = await begin(sharer.run([text(9, 1)]))
    left.cancel()
    came = asyncio.create_task(sharer.run([text(9, 1)]))
    with pytest.raises(asyncio.CancelledError):
        await left
    model.gate.set()
    assert (await came).values.tolist() == [1]
    await busy


async def test_all_who_wait_for_a_failure_hear_of_it_and_the_next_one_tries_anew(
    device: Device, metrics: Metrics
) -> None:
    calls: list[int] = []

    def fails_at_first(batch: Sequence[Tokens]) -> NDArray[np.float32]:
        calls.append(len(batch))
        if len(calls) == 1:
            raise ModelError("not now")
        return marks(batch)

    sharer = share(fails_at_first, device, metrics, AMPLE)
    results = await asyncio.gather(*(sharer.run([text(9, 1)]) for _ in range(3)), return_exceptions=True)
    assert [str(each) for each in results] == ["not now"] * 3
    assert (await sharer.run([text(9, 1)])).values.tolist() == [1]
    assert calls == [1, 1]


async def test_of_two_failures_one_is_told_and_nothing_complains_of_the_other(device: Device, metrics: Metrics) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    sharer = share(Model(), device, metrics)
    (first,) = await begin(sharer.run([text(9, -1)]))
    for work in (sharer.run([text(9, -1), text(600, -2)]), first):
        with pytest.raises(ModelError):
            await work
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_when_the_device_closes_all_who_share_are_told(metrics: Metrics) -> None:
    with open_device() as device:
        model = Model()
        sharer = share(model, device, metrics)
        busy = await model.hold(sharer.batcher)
        tasks = await begin(*(sharer.run([text(9, 1)]) for _ in range(2)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(device.close))
        for task in tasks:
            with pytest.raises(Unavailable):
                await task
        model.gate.set()
        await asyncio.gather(closing, busy)


async def test_what_is_remembered_is_not_computed_again_unless_it_is_to_be_fresh(
    device: Device, metrics: Metrics
) -> None:
    model = Model()
    sharer = share(model, device, metrics, AMPLE)
    await sharer.run([text(9, 1), text(9, 2)])
    ran = await sharer.run([text(9, 2), text(9, 3), text(9, 1)])
    assert ran.values.tolist() == [2, 3, 1]
    assert model.seen == [1, 2, 3]
    assert (await sharer.run([text(9, 1)])).queued == 0
    assert sources(metrics) == {"computed": 3, "shared": 0, "remembered": 3}
    assert (await sharer.run([text(9, 1)], fresh=True)).values.tolist() == [1]
    assert model.seen == [1, 1, 2, 3]


@given(
    calls=st.lists(
        st.tuples(
            st.lists(st.integers(1, 12), min_size=1, max_size=6),
            st.sampled_from(["stays", "leaves at once", "leaves later", "breaks"]),
        ),
        min_size=1,
        max_size=10,
    ),
    memory=st.sampled_from([0, 600, AMPLE]),
)
@settings(max_examples=60, deadline=None)
def test_whoever_leaves_or_breaks_all_others_get_their_own_values(
    calls: list[tuple[list[int], str]], memory: int
) -> None:
    metrics, model, complaints = Metrics(), Model(seconds=0.0005), list[Any]()

    async def one(sharer: Sharer, wanted: list[int], fate: str) -> Ran:
        texts = [text(8, -mark if fate == "breaks" else mark) for mark in wanted]
        return await asyncio.wait_for(sharer.run(texts), 0.002 if fate == "leaves later" else None)

    async def everyone(sharer: Sharer) -> list[Ran | BaseException]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        tasks = await begin(*(one(sharer, *call) for call in calls))
        for task, (_, fate) in zip(tasks, calls, strict=True):
            if fate == "leaves at once":
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert (await sharer.run([text(3, 99)])).values == [99]
        return results

    with open_device() as device:
        sharer = Sharer(serve(model, device, metrics, budget=40), Memory(memory), metrics)
        results = asyncio.run(everyone(sharer))
    fates = {fate for _, fate in calls}
    for result, (wanted, fate) in zip(results, calls, strict=True):
        if isinstance(result, Ran):
            assert fate != "breaks"
            assert result.values.tolist() == wanted
        elif isinstance(result, ModelError):
            assert "breaks" in fates  # in the same batch, perhaps
        else:
            assert fate.startswith("leaves")
    assert complaints == []
    assert sample(metrics, "winnow_queue_tokens", model="model", lane="search") == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 9))
def test_a_memory_holds_what_was_asked_for_last_and_never_more_than_its_size(asked: list[int], room: int) -> None:
    each = ENTRY_BYTES + np.zeros(16, np.float32).copy().__sizeof__()
    memory, reference = Memory(room * each), list[int]()
    for mark in asked:
        key = key_of(text(3, mark))
        found = memory.recall([key])
        assert bool(found) == (mark in reference)
        assert all((value == mark).all() for value in found.values())
        if not found:
            memory.keep([key], np.full((1, 16), mark, np.float32))
        reference = [*(other for other in reference if other != mark), mark][-room:]


def test_a_memory_does_not_hold_on_to_the_batch_that_a_row_comes_from() -> None:
    memory, key = Memory(AMPLE), key_of(text(3, 1))
    memory.keep([key], np.ones((1, 4), np.float32))
    assert memory.recall([key])[key].base is None


def test_a_value_larger_than_the_memory_is_not_held() -> None:
    memory, key = Memory(ENTRY_BYTES), key_of(text(3, 1))
    memory.keep([key], np.ones((1, 400), np.float32))
    assert memory.recall([key]) == {}


def test_many_threads_may_use_a_memory() -> None:
    memory, wrong = Memory(40 * (ENTRY_BYTES + 32)), Counter[str]()

    def come_and_go(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, 100, 400).tolist()
        for mark in order:
            key = key_of(text(2, mark))
            wrong["value"] += sum(value != mark for value in memory.recall([key]).values())
            memory.keep([key], np.array([mark], np.float32))

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = memory.recall([key_of(text(2, mark)) for mark in range(100)])
    assert wrong["value"] == 0
    assert 0 < len(held) <= 41


async def test_a_popular_question_costs_once(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, reranker="fake:slow", query_cache_bytes=0)) as service:
        await service.ingest(*documents(20))
        before = service.sample("winnow_texts_total", model="reranker:fake:slow", source="computed")
        answers = await asyncio.gather(*(service.search("topic 3") for _ in range(8)))
        assert len({str([hit["score"] for hit in answer["hits"]]) for answer in answers}) == 1
        after = service.sample("winnow_texts_total", model="reranker:fake:slow", source="computed")
        shared = service.sample("winnow_texts_total", model="reranker:fake:slow", source="shared")
        assert after - before + shared == 8 * 20
        assert after - before < 3 * 20


async def test_a_question_of_lately_takes_no_encoder_and_with_a_memory_for_pairs_no_reranker(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, pair_cache_bytes=2**20)) as service:
        await service.ingest(*documents(20))
        first = await service.search("topic 3")
        batches = service.encoded("search"), service.encoded("search", "reranker:fake")
        again = await service.search("topic 3")
        assert (service.encoded("search"), service.encoded("search", "reranker:fake")) == batches
        assert again["hits"] == first["hits"]


async def test_readiness_asks_the_models_and_not_their_memory(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, pair_cache_bytes=2**20)) as service:
        batches = service.encoded("search"), service.encoded("search", "reranker:fake")
        assert await service.engine.readiness._ask() is None
        assert service.encoded("search") == batches[0] + 2, "the question, and what may answer it"
        assert service.encoded("search", "reranker:fake") > batches[1]
