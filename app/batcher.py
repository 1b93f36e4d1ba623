"""All model work goes through here: callers' texts share batches, and the threads of a device compute them.

    Batcher.admit   refuses a whole request before any work, or promises it room
    Batcher.run     puts texts in line and waits for their values
    Device          whenever a thread of it is free, takes the next batch of whichever of its models has waited longest

The books change only under the device's lock and for microseconds: no event loop ever waits for a model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from time import perf_counter
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Gauge

from app.batch import Batch, Call, Lane, Ran
from app.caller import Caller, caller
from app.device import Device
from app.errors import Overloaded, WinnowError
from app.telemetry import Metrics
from app.trail import riders, tell_batch
from models.types import WHOLE, Grain, ModelError, OutOfMemory, Tokens

log = structlog.get_logger()

START_TOKENS, START_SECONDS = 50.0, 0.01
"""The rate that a model is taken to have until it is measured; so little weight that its first batch outweighs it."""

TELLING = 8
"""A batch filled to less than one part in so many is mostly fixed cost: the rate under load is higher, never lower."""

DOUBT = 1.0
"""Seconds without a batch after which the rate may be another one. Whoever goes by one that is too low asks for
nothing, so that it would never be known better."""

SHORTEST_RETRY = 0.1

SPARE = 3
"""A key that asks for more than there is gets three quarters of it, two that do get three sevenths each."""

LEAST_BUDGET = 256
"""Tokens that a batch may have however little memory there is: one long text is tried in any case."""

Compute = Callable[[Sequence[Tokens]], NDArray[Any]]
"""A model at work: a value for each text."""

Permit = AbstractContextManager[None]
"""The room that one request holds while it works: `with batcher.admit(tokens):`."""


class Room:
    """Tokens let in at once: never more than its size, unless one request larger than that is in there alone."""

    def __init__(self, size: int, gauge: Gauge | None = None) -> None:
        self._size, self._gauge = size, gauge
        self.taken = 0
        self._held: Counter[str] = Counter()

    def lacks(self, who: Caller, tokens: int, most: float = inf) -> float:
        """How many must leave before this caller can enter with so many; one with a key leaves some to others."""
        return max(self.excess(tokens, most), self._unfair(who.name, tokens, most) if who.has_key else 0)

    def excess(self, tokens: int, most: float = inf) -> float:
        """How many must leave before so many can enter."""
        return min(self.taken, max(self.taken + tokens - min(self._size, most), 0))

    def _unfair(self, who: str, tokens: int, most: float) -> float:
        """Likewise, where the same caller is in there already: it may have `SPARE` times what it leaves free, so that
        others find room, however much one asks for.
        """
        held, free = self._held[who], min(self._size, most) - self.taken - tokens
        return max(held + tokens - SPARE * free, 0) if held else 0

    def add(self, tokens: int, who: str = "") -> None:
        self.taken += tokens
        self._held[who] += tokens
        if not self._held[who]:
            del self._held[who]
        if self._gauge is not None:
            self._gauge.inc(tokens)  # a model may have another batcher of this name


class Batcher:
    """One model's lines: whole requests are let in, and their texts leave in batches with those of others."""

    def __init__(
        self, name: str, compute: Compute, device: Device, metrics: Metrics,
        batch_tokens: int, bulk_batch_tokens: int, queue_tokens: int, queue_seconds: float, grain: Grain = WHOLE,
    ) -> None:  # fmt: skip
        self.name = name
        self._queue_seconds = queue_seconds
        self._compute, self._device, self._metrics = compute, device, metrics
        self.grain = grain
        self._budgets: dict[Lane, int] = {"search": batch_tokens, "ingest": bulk_batch_tokens}
        self._lines: dict[Lane, dict[Call, None]] = {"search": {}, "ingest": {}}
        self._rooms = {lane: Room(queue_tokens, metrics.queue_tokens.labels(name, lane)) for lane in self._lines}
        self._lobby: dict[Call, None] = {}
        """Ingest calls that wait for room in their line."""
        self._computed, self._spent = START_TOKENS, START_SECONDS
        """Tokens and seconds of past batches, of which the older ones fade."""
        self._measured = False
        """Whether there was one that says something; until then room is counted in tokens alone."""
        self._begun = perf_counter()
        """When the last batch did, or somebody was let try it."""
        self.warm = False
        metrics.refusals.labels(name), metrics.abandoned.labels(name), metrics.out_of_memory.labels(name)
        device.add(self)

    def admit(self, tokens: int) -> Permit:
        """Room for a whole search, or Overloaded with the time until there is some, if nobody else takes it."""
        who = caller()
        who.meter.set_aside(tokens)
        try:
            self._let_in(who, tokens)
        except WinnowError:
            who.meter.give_back(tokens)
            raise
        return self._hold(who, tokens)

    def widen(self, tokens: int) -> Permit:
        """More room for a request that is in already and turns out to be larger: it goes on, and others find less."""
        who = caller()
        who.meter.set_aside(tokens)
        with self._device.changed:
            self._rooms["search"].add(tokens, who.name)
        return self._hold(who, tokens)

    def _let_in(self, who: Caller, tokens: int) -> None:
        with self._device.changed:
            self._device.check_open()
            room, rate = self._rooms["search"], self._rate
            most = self._queue_seconds * rate if self._measured else inf
            excess = room.lacks(who, tokens, most)
            if not excess:
                room.add(tokens, who.name)
                return
            retry_after = max(excess / rate, SHORTEST_RETRY)
        self._metrics.refusals.labels(self.name).inc()
        raise Overloaded(f"The queue of {self.name} is full; come back in {retry_after:.1f} s.", retry_after)

    def takes(self, tokens: int) -> float:
        """Seconds until a search that comes now will have so many tokens computed, by the measured rate."""
        with self._device.changed:
            ahead = sum(call.tokens for call in self._lines["search"])
            return self._device.busy_for + (ahead + tokens) / self._rate

    def makes(self, seconds: float) -> float:
        """Tokens that are computed in so many seconds, by the measured rate."""
        with self._device.changed:
            return max(seconds, 0.0) * self._rate

    def may_be_faster(self) -> bool:
        """Whether it has been long since the rate was measured; for one of those who ask meanwhile, who may try."""
        with self._device.changed:
            before, now = self._begun, perf_counter()
            if now - before > DOUBT:
                self._begun = now
            return now - before > DOUBT

    @property
    def _rate(self) -> float:
        """Tokens a second, where there is enough for all that compute at once."""
        return self.grain.abreast * self._computed / self._spent

    def expecting(self) -> AbstractContextManager[None]:
        """For a search under way: no ingest begins before what it will ask for, nor between two of its waves."""
        return self._device.expecting()

    @contextmanager
    def _hold(self, who: Caller, tokens: int) -> Iterator[None]:
        try:
            yield
        finally:
            who.meter.give_back(tokens)
            with self._device.changed:
                self._rooms["search"].add(-tokens, who.name)

    async def run(self, items: Sequence[Tokens], lane: Lane) -> Ran:
        """The model's values for these texts, for the request under way."""
        return await self.answer(Call(items, lane, riders())) if items else Ran(np.empty(0, np.float32), 0.0, 0.0)

    async def answer(self, call: Call) -> Ran:
        """The same; a caller that is cancelled takes along what is not yet in a batch."""
        self._enter(call)
        try:
            await call.done.wait()
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        return call.result()

    def _enter(self, call: Call) -> None:
        with self._device.changed:
            self._device.check_open()
            (self._lobby if call.lane == "ingest" else self._lines["search"])[call] = None
            self._seat()
            self._device.changed.notify()

    def _seat(self) -> None:
        """Let ingest calls from the lobby into their line, in turn and while there is room."""
        room = self._rooms["ingest"]
        while self._lobby and not room.excess((call := next(iter(self._lobby))).tokens):
            del self._lobby[call]
            room.add(call.tokens)
            self._lines["ingest"][call] = None

    def _abandon(self, call: Call) -> None:
        with self._device.changed:
            abandoned = len(call.waiting) if self._end(call) else 0
        self._metrics.abandoned.labels(self.name).inc(abandoned)

    def _end(self, call: Call) -> bool:
        """Strike a call from the books; False when it was not there any more."""
        if call.over:
            return False
        call.over = True
        if call in self._lobby:
            del self._lobby[call]
        elif call.lane == "ingest":
            self._rooms["ingest"].add(-call.tokens)
        self._lines[call.lane].pop(call, None)
        self._seat()
        return True

    def strand(self) -> list[Call]:
        """End every call that waits; the device holds its lock while it asks for this."""
        waiting = [*self._lobby, *self._lines["search"], *self._lines["ingest"]]
        return [call for call in waiting if self._end(call)]

    def waiting_since(self, lane: Lane) -> float:
        return next((call.arrived for call in self._lines[lane]), inf)

    def next_batch(self, lane: Lane) -> Batch:
        """The oldest call's longest texts, then what goes well with them from the others, oldest first."""
        line, self._begun = self._lines[lane], perf_counter()
        waiting = sum(len(call.waiting) for call in line)
        batch = Batch(lane, self._budgets[lane], -(-waiting // self.grain.abreast))
        for call in line:
            batch.fill(call)
            if batch.full:
                break
        for call, _ in batch.parts:
            call.begun = call.begun or perf_counter()
            if not call.waiting:
                del line[call]
        return batch

    def expects(self, batch: Batch) -> float:
        """Seconds that it should take, by the measured rate."""
        return batch.cost * self._spent / self._computed

    def compute(self, batch: Batch) -> None:
        """Run the model and tell the callers; whatever it raises is theirs and not the thread's."""
        try:
            values = self._values(batch)
            with self._device.changed:  # parts of one call may come from several threads at once
                batch.deal(values)
        except Exception as error:  # it goes to the callers of this batch; a thread that ends would strand all others
            self.settle(batch, error)
        except BaseException as error:  # a panic in a Rust extension is no Exception
            self.settle(batch, ModelError(f"{self.name} broke down: {error!r}"))
        else:
            self.settle(batch, None)

    def _values(self, batch: Batch) -> NDArray[Any]:
        began, given = perf_counter(), self._device.given(self)
        values = self._fitting(batch.texts(), batch.lane)
        spent = perf_counter() - began
        self._learn(batch, spent * min(self.grain.abreast / given, 1))
        self.warm = True
        self._metrics.batch_tokens.labels(self.name, batch.lane).observe(batch.cost)
        self._metrics.batch_seconds.labels(self.name, batch.lane).observe(spent)
        self._metrics.batch_padding.labels(self.name, batch.lane).observe(1 - batch.tokens / batch.cost)
        tell_batch(batch.askers(), f"batch {self.name}", spent, batch.facts())
        if values.shape[:1] != (batch.count,):
            raise ModelError(f"{self.name} gave values of shape {values.shape} for {batch.count} texts.")
        return values

    def _learn(self, batch: Batch, spent: float) -> None:
        """How fast the model is; the seconds are those in which it was computed, and did not lie ready."""
        tells = TELLING * batch.tokens >= batch.budget or batch.tokens * self._spent > spent * self._computed
        if tells and not self._device.trouble:
            with self._device.changed:
                self._computed, self._spent = 0.9 * self._computed + batch.tokens, 0.9 * self._spent + spent
                self._measured = True

    def _fitting(self, texts: list[Tokens], lane: Lane) -> NDArray[Any]:
        """In halves where the device has no memory for all at once; until the next start batches then stay as small."""
        try:
            return self._compute(texts)
        except OutOfMemory as error:
            self._metrics.out_of_memory.labels(self.name).inc()
            if len(texts) == 1:
                raise
            half = len(texts) // 2
            self._budgets[lane] = max(half * max(map(len, texts)), LEAST_BUDGET)
            log.warning(
                "batches are made smaller", model=self.name, lane=lane, tokens=self._budgets[lane], why=str(error)
            )
            return np.concatenate([self._fitting(texts[:half], lane), self._fitting(texts[half:], lane)])

    def settle(self, batch: Batch, error: Exception | None) -> None:
        """End the calls that have all their values, or every call of a batch that failed."""
        over = []
        with self._device.changed:
            for call, items in batch.parts:
                call.missing -= len(items)
                if (error is not None or not call.missing) and self._end(call):
                    over.append(call)
        for call in over:
            call.wake(error)
