"""Pace: work is done while nobody searches, and takes no more than a share of the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from prometheus_client import Counter

from app.telemetry import Lap
from app.witness import Traffic

QUIET_SECONDS = 0.2
"""Nobody searches if nobody has for so long: a client that asks one question after the other leaves shorter gaps."""


class Pace:
    """Gives a turn whenever there is time for one."""

    def __init__(self, traffic: Traffic, share: float, seconds: Counter) -> None:
        self._traffic = traffic
        self._rest = 1 / share - 1
        """Seconds to rest for each second of work."""
        self._seconds = seconds
        self._rested = monotonic()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Lap]:
        """Wait for it; what the lap has queued was no work."""
        await self._time()
        lap, began = Lap(), monotonic()
        try:
            yield lap
        finally:
            spent = max(monotonic() - began - lap.queued, 0.0)
            self._seconds.inc(spent)
            self._rested = monotonic() + self._rest * spent

    async def _time(self) -> None:
        """That nobody has searched for a while is no event to wait for: it is looked at when it may be true."""
        wait = self._left()
        while wait > 0:
            await asyncio.sleep(wait)
            wait = self._left()

    def _left(self) -> float:
        return max(self._rested - monotonic(), QUIET_SECONDS - self._traffic.quiet)
