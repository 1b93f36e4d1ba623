from __future__ import annotations

import asyncio

import pytest

from app import background
from app.background import Background
from app.telemetry import Metrics
from tests.app.batching import sample
from tests.app.serving import until


class Panic(BaseException):
    """No Exception, as what a Rust extension raises is none."""


@pytest.mark.parametrize("error", [ValueError(), Panic(), asyncio.CancelledError()])
async def test_work_that_breaks_off_is_counted_and_begun_anew(error: BaseException) -> None:
    metrics, begun, again = Metrics(), 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise error
        again.set()

    task = Background("worker", metrics)
    task.start(work)
    async with asyncio.timeout(10 * background.FIRST_PAUSE):
        await again.wait()
    assert sample(metrics, "winnow_worker_restarts_total", worker="worker") == 1
    await task.close()
    assert begun == 2


async def test_work_that_is_done_or_closed_stays_so() -> None:
    metrics, begun = Metrics(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1

    async def wait() -> None:
        await work()
        await asyncio.Event().wait()

    for each, does in ((Background("done", metrics), work), (Background("closed", metrics), wait)):
        each.start(does)
        before = begun
        await until(lambda before=before: begun > before)
        await each.close()
    assert begun == 2
    assert sample(metrics, "winnow_worker_restarts_total", worker="done") == 0
    assert sample(metrics, "winnow_worker_restarts_total", worker="closed") == 0
