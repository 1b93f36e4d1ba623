"""Idle work keeps to idle time, and to its share of it."""

from __future__ import annotations

import asyncio
from time import monotonic

from app.quality.observe.pace import QUIET_SECONDS, Pace
from app.telemetry import Metrics
from app.witness import Traffic


async def spent(share: float, traffic: Traffic, during: float) -> list[float]:
    """Seconds of each turn within a time."""
    pace, turns = Pace(traffic, share, Metrics().observe_seconds), []

    async def work() -> None:
        while True:
            async with pace.turn():
                began = monotonic()
                await asyncio.sleep(0.01)
                turns.append(monotonic() - began)

    task = asyncio.create_task(work())
    await asyncio.sleep(during)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return turns


async def test_it_takes_no_more_than_its_share() -> None:
    began = monotonic()
    turns = await spent(0.2, Traffic(), QUIET_SECONDS + 0.8)
    assert turns
    assert sum(turns[:-1]) <= 0.2 * (monotonic() - began)


async def test_while_searches_follow_each_other_nothing_is_done() -> None:
    traffic = Traffic()

    async def searches() -> None:
        while True:
            with traffic.passing():
                await asyncio.sleep(0.02)
            await asyncio.sleep(0)

    with traffic.passing():
        asking = asyncio.create_task(searches())
        await asyncio.sleep(0)
    assert await spent(1.0, traffic, 3 * QUIET_SECONDS) == []
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await spent(1.0, traffic, 3 * QUIET_SECONDS)


async def test_a_search_under_way_is_no_quiet_however_long_it_takes() -> None:
    traffic = Traffic()
    await asyncio.sleep(0.01)
    assert traffic.quiet > 0
    with traffic.passing(), traffic.passing():
        assert traffic.quiet == 0


async def test_what_waits_in_a_line_is_no_work() -> None:
    metrics = Metrics()
    async with Pace(Traffic(), 0.5, metrics.observe_seconds).turn() as lap:
        lap.queued = 1000.0
    assert metrics.registry.get_sample_value("winnow_observe_seconds_total") == 0.0
