"""A thread that sees to it that nothing hangs unseen: neither a model on its device nor the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread, get_ident
from time import perf_counter

import structlog

from app.device import Device, stack_of
from app.telemetry import Metrics

log = structlog.get_logger()

PERIOD = 0.5
LOOKS = 30
"""Answers of the event loop that are remembered: a quarter of a minute of them."""


class Pulse:
    """How long an event loop lets others wait. It is asked for a sign of life, and asked again when it gave one."""

    def __init__(self) -> None:
        self._loop, self.thread = asyncio.get_running_loop(), get_ident()
        self._lags: deque[float] = deque([0.0], LOOKS)
        self.tasks = 0
        self._asked: float | None = None
        self.silent = 0.0
        """Seconds that the watchdog has waited for the present sign."""

    @property
    def lag(self) -> float:
        return max(*self._lags, self.silent)

    def feel(self, seconds: float) -> None:
        if self._asked is not None:
            self.silent += seconds
            return
        self.silent, self._asked = 0.0, perf_counter()
        with suppress(RuntimeError):  # a loop that was closed has nothing to say any more
            self._loop.call_soon_threadsafe(self._beat, self._asked)

    def _beat(self, asked: float) -> None:
        self._lags.append(perf_counter() - asked)
        self.tasks = len(asyncio.all_tasks())
        self._asked = None


class Watchdog:
    """Looks twice a second. Only time that it has seen pass counts: a process that was stopped does not hang."""

    def __init__(
        self, devices: Callable[[], Sequence[Device]], metrics: Metrics, stall_seconds: float, hang_seconds: float
    ) -> None:
        self._devices, self._metrics = devices, metrics
        self._stall_seconds, self._hang_seconds = stall_seconds, hang_seconds
        self._end: Callable[[], None] | None = None
        self._pulse, self._closing = Pulse(), Event()
        self._stalled = False
        self._thread = Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def when_hung(self, end: Callable[[], None]) -> None:
        """What to do when patience has ended; without it, those who wait are told, and no more."""
        self._end = end

    def troubles(self) -> list[str]:
        """What hangs at present."""
        ended = [] if self._thread.is_alive() else ["the watchdog has ended"]
        return ended + [device.trouble for device in self._devices() if device.trouble]

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        last = perf_counter()
        while not self._closing.wait(PERIOD):
            now = perf_counter()
            self._look(min(now - last, 2 * PERIOD))
            last = now

    def _look(self, seconds: float) -> None:
        for device in self._devices():
            self._look_at(device, seconds)
        self._pulse.feel(seconds)
        self._metrics.loop_lag.set(self._pulse.lag)
        self._metrics.tasks.set(self._pulse.tasks)
        self._tell_of_the_loop(self._pulse.silent - self._stall_seconds)

    def _look_at(self, device: Device, seconds: float) -> None:
        self._metrics.restarts.labels(device.name).inc(device.watch(seconds))
        work = device.work
        self._metrics.batch_age.labels(device.name).set(work.age or 0.0 if work else 0.0)
        if work and work.overdue > 0:
            self._lose_patience(work.overdue, str(work))

    def _tell_of_the_loop(self, overdue: float) -> None:
        if overdue > 0 and not self._stalled:
            log.error("the event loop stands still", seconds=self._pulse.silent, stack=stack_of(self._pulse.thread))
        self._stalled = overdue > 0
        self._lose_patience(overdue, "the event loop stands still")

    def _lose_patience(self, overdue: float, what: str) -> None:
        if self._end and self._hang_seconds and overdue > self._hang_seconds:
            log.critical("the process ends, since something hangs and can't be ended by itself", what=what)
            self._end()
