"""A compute thread that hangs or ends. Time is what the watchdog says has passed, so that none of it is waited for."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Sequence
from threading import get_ident

import numpy as np
import pytest
from numpy.typing import NDArray

from app.device import FIRST, SLOWER, Device, stack_of
from app.errors import Unavailable
from app.telemetry import Metrics
from models.types import Tokens
from tests.app.batching import Model, begin, open_device, serve, text
from tests.app.serving import until

PATIENCE = 10.0


async def look(device: Device, seconds: float) -> None:
    """As the watchdog does at a batch under way: only what passes after its first look counts."""
    await until(lambda: device.work)
    device.watch(0.0)
    device.watch(seconds)


async def test_whoever_waits_for_a_batch_that_hangs_is_told_and_so_is_whoever_comes() -> None:
    with open_device(patience=PATIENCE) as device:
        model = Model()
        batcher = serve(model, device, Metrics())
        await batcher.run([text(1)], "search")
        held = await model.hold(batcher)
        waiting = await begin(batcher.run([text(5)], "search"), batcher.run([text(5)], "ingest"))
        await look(device, PATIENCE + 1)
        for each in [held, *waiting]:
            with pytest.raises(Unavailable, match="model has worked for 11 s on a batch of 1 texts, 1 tokens"):
                await each
        with pytest.raises(Unavailable, match="does not answer"):
            batcher.admit(5)
        with pytest.raises(Unavailable, match="does not answer"):
            await batcher.run([text(5)], "ingest")
        model.gate.set()


async def test_a_model_that_comes_back_serves_again() -> None:
    with open_device(patience=PATIENCE) as device:
        model = Model()
        batcher = serve(model, device, Metrics())
        await batcher.run([text(1)], "search")
        held = await model.hold(batcher)
        await look(device, PATIENCE + 1)
        model.gate.set()
        with pytest.raises(Unavailable):
            await held
        await until(lambda: not device.trouble)
        with batcher.admit(3):
            assert (await batcher.run([text(3, 7)], "search")).values == [7]


async def test_a_batch_that_hung_says_nothing_of_the_models_rate() -> None:
    """Else searches with a deadline would read nothing, and most be refused, long after it came back."""
    with open_device(patience=PATIENCE) as device:
        model = Model()
        batcher = serve(model, device, Metrics(), budget=8)
        await batcher.run([text(1)], "search")
        before = batcher.takes(1000)
        held = await model.hold(batcher)
        await look(device, PATIENCE + 1)
        model.gate.set()
        with pytest.raises(Unavailable):
            await held
        await until(lambda: not device.trouble)
        assert batcher.takes(1000) == before


async def test_the_first_batch_of_a_model_has_more_time() -> None:
    with open_device(patience=PATIENCE) as device:
        model = Model()
        held = await model.hold(serve(model, device, Metrics()))
        await look(device, FIRST * PATIENCE - 1)
        assert device.trouble is None
        device.watch(2)
        assert device.trouble is not None
        model.gate.set()
        with pytest.raises(Unavailable):
            await held


async def test_a_slow_model_has_as_much_time_as_its_rate_asks_for() -> None:
    with open_device(patience=0.01) as device:
        model = Model(seconds=0.2)
        batcher = serve(model, device, Metrics())
        for _ in range(3):
            await batcher.run([text(800)], "search")
        model.gate.clear()
        (held,) = await begin(batcher.run([text(800)], "search"))
        await look(device, 0.5 * SLOWER * 0.2)
        assert device.trouble is None
        model.gate.set()
        await held


async def test_a_device_at_rest_does_not_hang() -> None:
    with open_device(patience=PATIENCE) as device:
        await serve(Model(), device, Metrics()).run([text(1)], "search")
        await until(lambda: device.work is None)
        device.watch(0.0)
        device.watch(1000)
        assert device.trouble is None


async def test_of_several_threads_one_hangs_and_what_the_others_compute_is_kept() -> None:
    with open_device(patience=PATIENCE) as device:
        model = Model()
        batcher = serve(model, device, Metrics(), abreast=2)
        await batcher.run([text(1)], "search")
        hung = await model.hold(batcher)
        await look(device, PATIENCE - 1)
        other = await model.hold(batcher)
        device.watch(2)
        with pytest.raises(Unavailable, match="has worked for 11 s"):
            await hung
        assert device.trouble is not None
        model.gate.set()
        assert (await other).values == [0]
        await until(lambda: not device.trouble)


class Deadly(Model):
    """Its first batch ends the thread as an extension can, past all that Python would do."""

    def __call__(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        if not self.batches:
            self.batches.append(list(batch))
            ctypes.CDLL(None).pthread_exit(None)
        return super().__call__(batch)


async def lose_a_thread() -> None:
    """And have one hang afterwards: its stack can't be told any more, but all the rest is."""
    with open_device(patience=PATIENCE) as device:
        assert "lose_a_thread" in stack_of(get_ident())
        batcher = serve(model := Deadly(), device, Metrics(), budget=10)
        lost, kept = await begin(batcher.run([text(10)], "search"), batcher.run([text(10, 3)], "search"))
        await until(lambda: device.watch(0.0))
        with pytest.raises(Unavailable, match="has ended"):
            await lost
        assert (await kept).values == [3]
        assert not device.watch(0.0)
        held = await model.hold(batcher)
        await look(device, FIRST * PATIENCE + 1)
        with pytest.raises(Unavailable, match="does not answer"):
            await held
        assert stack_of(get_ident()) == ""
        model.gate.set()


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux says which threads there are")
def test_a_thread_that_ended_is_replaced_and_only_its_batch_is_lost() -> None:
    """In a process of its own: what such a thread leaves behind in Python is never cleared away."""
    script = "import asyncio; from tests.app.test_device import lose_a_thread; asyncio.run(lose_a_thread())"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


async def test_closing_leaves_a_thread_that_hangs_behind() -> None:
    device, model = Device("test", 0.1, PATIENCE), Model()
    batcher = serve(model, device, Metrics())
    await batcher.run([text(1)], "search")
    held = await model.hold(batcher)
    await look(device, PATIENCE + 1)
    device.close()
    model.gate.set()
    with pytest.raises(Unavailable):
        await held
