"""All model work goes through here: callers' texts share batches, and one thread per device computes them.

    Batcher.admit   refuses a whole request before any work, or promises it room
    Batcher.run     puts texts in line and waits for their values
    Device          whenever it is free, takes the next batch of whichever of its models has waited longest

The books change only under the device's lock and for microseconds: no event loop ever waits for a model.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from threading import Condition, Thread
from time import perf_counter
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Gauge

from app.errors import Overloaded, Unavailable
from app.telemetry import Metrics
from models.types import ModelError, OutOfMemory, Tokens

log = structlog.get_logger()

Lane = Literal["search", "ingest"]
"""Who waits: a person, or an indexer."""

START_TOKENS, START_SECONDS = 50.0, 0.01
"""The rate that a model is taken to have until it is measured; so little weight that its first batch outweighs it."""

TELLING = 8
"""A batch filled to less than one part in so many says nothing of the rate under load: it is mostly fixed cost."""

SHORTEST_RETRY = 0.1

LEAST_BUDGET = 256
"""Tokens that a batch may have however little memory there is: one long text is tried in any case."""

Permit = AbstractContextManager[None]
"""The room that one request holds while it works: `with batcher.admit(tokens):`."""


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """Values in the order of the texts, and where the seconds went."""

    values: NDArray[np.float32]
    queued: float
    computed: float


class _Call:
    """One caller's texts on their way through the batches."""

    def __init__(self, items: Sequence[Tokens], lane: Lane) -> None:
        self.items, self.lane = items, lane
        self.arrived, self.begun = perf_counter(), 0.0
        self.lengths = [max(len(item), 1) for item in items]
        self.tokens = sum(self.lengths)
        self.waiting = sorted(range(len(items)), key=self.lengths.__getitem__)
        """Those in no batch yet, the longest last."""
        self.missing, self.over = len(items), False
        self.values: NDArray[np.float32] | None = None
        self.error: Exception | None = None
        self.done, self._loop = asyncio.Event(), asyncio.get_running_loop()

    def keep(self, items: list[int], values: NDArray[np.float32]) -> None:
        if self.values is None:
            self.values = np.empty((len(self.items), *values.shape[1:]), np.float32)
        self.values[items] = values

    def wake(self, error: Exception | None) -> None:
        """Tell the caller, in its own loop; a loop that was closed meanwhile has nobody to tell."""
        self.error = error
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.done.set)

    def result(self) -> Ran:
        if self.error is not None:
            raise self.error
        assert self.values is not None
        return Ran(self.values, self.begun - self.arrived, perf_counter() - self.begun)


@dataclass(slots=True)
class _Batch:
    """Texts that are computed together, each padded to the longest of them."""

    lane: Lane
    budget: int
    parts: list[tuple[_Call, list[int]]] = field(default_factory=list)
    longest: int = 0
    count: int = 0
    tokens: int = 0

    @property
    def full(self) -> bool:
        return self.longest * (self.count + 1) > self.budget

    def fill(self, call: _Call) -> None:
        """Take the call's longest texts that go well with those already here; the first call sets the length."""
        slack = max(64, self.budget // 64)  # padding that one text may bring: about the price of another batch
        length, limit = call.lengths.__getitem__, inf
        if self.count:  # a longer text pads all that are here: the more they are, the less longer it may be
            limit = min(self.longest + slack // self.count, self.budget // (self.count + 1))
        end = bisect_right(call.waiting, limit, key=length)
        longest = max(self.longest, length(call.waiting[end - 1])) if end else self.longest
        room = max(self.budget // max(longest, 1), 1) - self.count
        start = max(bisect_left(call.waiting, longest - slack, key=length), end - room)
        if start < end:
            self.parts.append((call, call.waiting[start:end]))
            self.longest, self.count = longest, self.count + end - start
            self.tokens += sum(map(length, call.waiting[start:end]))
            del call.waiting[start:end]

    def texts(self) -> list[Tokens]:
        return [call.items[item] for call, items in self.parts for item in items]

    def deal(self, values: NDArray[np.float32]) -> None:
        """Give each call the values of its own texts."""
        start = 0
        for call, items in self.parts:
            call.keep(items, values[start : start + len(items)])
            start += len(items)


class Device:
    """One thread for all models of a device: two that compute at once would fight for the same cores."""

    def __init__(self, name: str, bulk_share: float) -> None:
        self.changed = Condition()
        self.closed = False
        self._batchers: list[Batcher] = []
        self._gain = bulk_share / (1 - bulk_share)
        self._saved = self._price = 0.0
        """Model time that searches owe to ingest, and what an ingest batch costs."""
        self._thread = Thread(target=self._work, name=f"device-{name}", daemon=True)
        self._thread.start()

    def add(self, batcher: Batcher) -> None:
        with self.changed:
            self._batchers.append(batcher)

    def close(self) -> None:
        """Let the running batch end, turn away all who wait, and stop."""
        with self.changed:
            self.closed = True
            stranded = [call for batcher in self._batchers for call in batcher.strand()]
            self.changed.notify()
        for call in stranded:
            call.wake(Unavailable("The service is stopping."))
        self._thread.join()

    def check_open(self) -> None:
        if self.closed:
            raise Unavailable("The service is stopping.")

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """A function of its own, so that a device at rest holds on to no caller's texts."""
        with self.changed:
            while (choice := self._choose()) is None:
                if self.closed:
                    return False
                self.changed.wait()
            batcher, lane, contended = choice
            batch = batcher.next_batch(lane)
        began = perf_counter()
        batcher.compute(batch)
        self._charge(lane, perf_counter() - began, contended)
        return True

    def _charge(self, lane: Lane, seconds: float, contended: bool) -> None:
        """Keep the share of ingest; a batch that had no rival shows that searches do pause, and starts it anew."""
        if lane == "ingest":
            self._price = seconds
        gain = seconds * self._gain if lane == "search" else -seconds
        self._saved = self._saved + gain if contended else 0.0

    def _choose(self) -> tuple[Batcher, Lane, bool] | None:
        """Whose batch is next, in which lane, and whether the other lane waits for it."""
        search, ingest = self._oldest("search"), self._oldest("ingest")
        if ingest and (search is None or 0 < self._saved >= self._price):
            return ingest, "ingest", search is not None
        return (search, "search", ingest is not None) if search else None

    def _oldest(self, lane: Lane) -> Batcher | None:
        first = min(self._batchers, key=lambda batcher: batcher.waiting_since(lane), default=None)
        return first if first and first.waiting_since(lane) < inf else None


class _Room:
    """Tokens let in at once: never more than its size, unless one request larger than that is in there alone."""

    def __init__(self, size: int, gauge: Gauge) -> None:
        self._size, self._gauge = size, gauge
        self.taken = 0

    def excess(self, tokens: int, most: float = inf) -> float:
        """How many must leave before so many can enter."""
        return min(self.taken, max(self.taken + tokens - min(self._size, most), 0))

    def add(self, tokens: int) -> None:
        self.taken += tokens
        self._gauge.inc(tokens)  # a model may have another batcher of this name


class Batcher:
    """One model's lines: whole requests are let in, and their texts leave in batches with those of others."""

    def __init__(
        self, name: str, compute: Callable[[Sequence[Tokens]], NDArray[np.float32]], device: Device, metrics: Metrics,
        batch_tokens: int, bulk_batch_tokens: int, queue_tokens: int, queue_seconds: float,
    ) -> None:  # fmt: skip
        self.name = name
        self._queue_seconds = queue_seconds
        self._compute, self._device, self._metrics = compute, device, metrics
        self._budgets: dict[Lane, int] = {"search": batch_tokens, "ingest": bulk_batch_tokens}
        self._lines: dict[Lane, dict[_Call, None]] = {"search": {}, "ingest": {}}
        self._rooms = {lane: _Room(queue_tokens, metrics.queue_tokens.labels(name, lane)) for lane in self._lines}
        self._lobby: dict[_Call, None] = {}
        """Ingest calls that wait for room in their line."""
        self._computed, self._spent = START_TOKENS, START_SECONDS
        """Tokens and seconds of past batches, of which the older ones fade."""
        metrics.refusals.labels(name), metrics.abandoned.labels(name), metrics.out_of_memory.labels(name)
        device.add(self)

    def admit(self, tokens: int) -> Permit:
        """Room for a whole search, or Overloaded with the time until there is some, if nobody else takes it."""
        with self._device.changed:
            self._device.check_open()
            room, rate = self._rooms["search"], self._computed / self._spent
            excess = room.excess(tokens, self._queue_seconds * rate)
            if not excess:
                room.add(tokens)
                return self._hold(tokens)
            retry_after = max(excess / rate, SHORTEST_RETRY)
        self._metrics.refusals.labels(self.name).inc()
        raise Overloaded(f"The queue of {self.name} is full; come back in {retry_after:.1f} s.", retry_after)

    def takes(self, tokens: int) -> float:
        """Seconds until a search that comes now will have so many tokens computed, by the measured rate."""
        with self._device.changed:
            ahead = sum(call.tokens for call in self._lines["search"])
            return (ahead + tokens) * self._spent / self._computed

    @contextmanager
    def _hold(self, tokens: int) -> Iterator[None]:
        try:
            yield
        finally:
            with self._device.changed:
                self._rooms["search"].add(-tokens)

    async def run(self, items: Sequence[Tokens], lane: Lane) -> Ran:
        """The model's values for these texts; a caller that is cancelled takes along what is not yet in a batch."""
        if not items:
            return Ran(np.empty(0, np.float32), 0.0, 0.0)
        call = _Call(items, lane)
        self._enter(call)
        try:
            await call.done.wait()
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        return call.result()

    def _enter(self, call: _Call) -> None:
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

    def _abandon(self, call: _Call) -> None:
        with self._device.changed:
            abandoned = len(call.waiting) if self._end(call) else 0
        self._metrics.abandoned.labels(self.name).inc(abandoned)

    def _end(self, call: _Call) -> bool:
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

    def strand(self) -> list[_Call]:
        """End every call that waits; the device holds its lock while it asks for this."""
        waiting = [*self._lobby, *self._lines["search"], *self._lines["ingest"]]
        return [call for call in waiting if self._end(call)]

    def waiting_since(self, lane: Lane) -> float:
        return next((call.arrived for call in self._lines[lane]), inf)

    def next_batch(self, lane: Lane) -> _Batch:
        """The oldest call's longest texts, then what goes well with them from the others, oldest first."""
        line = self._lines[lane]
        batch = _Batch(lane, self._budgets[lane])
        for call in line:
            batch.fill(call)
            if batch.full:
                break
        for call, _ in batch.parts:
            call.begun = call.begun or perf_counter()
            if not call.waiting:
                del line[call]
        return batch

    def compute(self, batch: _Batch) -> None:
        """Run the model and tell the callers; whatever it raises is theirs and not the thread's."""
        try:
            batch.deal(self._values(batch))
        except Exception as error:  # it goes to the callers of this batch; a thread that ends would strand all others
            self._settle(batch, error)
        except BaseException as error:  # a panic in a Rust extension is no Exception
            self._settle(batch, ModelError(f"{self.name} broke down: {error!r}"))
        else:
            self._settle(batch, None)

    def _values(self, batch: _Batch) -> NDArray[np.float32]:
        began = perf_counter()
        values = self._fitting(batch.texts(), batch.lane)
        if TELLING * batch.tokens >= batch.budget:
            spent = perf_counter() - began
            self._computed, self._spent = 0.9 * self._computed + batch.tokens, 0.9 * self._spent + spent
        cost = batch.longest * batch.count
        self._metrics.batch_tokens.labels(self.name, batch.lane).observe(cost)
        self._metrics.batch_padding.labels(self.name, batch.lane).observe(1 - batch.tokens / cost)
        if values.shape[:1] != (batch.count,):
            raise ModelError(f"{self.name} gave values of shape {values.shape} for {batch.count} texts.")
        return values

    def _fitting(self, texts: list[Tokens], lane: Lane) -> NDArray[np.float32]:
        """In halves where the device has no memory for all at once; until the next start batches then stay as small."""
        try:
            return np.asarray(self._compute(texts), dtype=np.float32)
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

    def _settle(self, batch: _Batch, error: Exception | None) -> None:
        """End the calls that have all their values, or every call of a batch that failed."""
        over = []
        with self._device.changed:
            for call, items in batch.parts:
                call.missing -= len(items)
                if (error is not None or not call.missing) and self._end(call):
                    over.append(call)
        for call in over:
            call.wake(error)
