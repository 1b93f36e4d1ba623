"""In front of a batcher: what searches ask of a model is computed once, though many ask for it.

    Memory      values of lately, within so many bytes
    Sharer.run  takes what is remembered, waits with others for what is on its way, and sends the rest to the batcher

A value depends on its model and its text alone, up to the rounding that comes from other texts in a batch, so that one
caller may have what another one was given. Ingest goes past all this: its texts seldom come twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from sys import getsizeof
from threading import Lock
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.batch import Call, Ran, objects
from app.batcher import Batcher
from app.caller import caller
from app.telemetry import Lap, Metrics
from app.trail import riders
from models.types import Tokens

Key = bytes
"""A text's ids and types, hashed so well that two texts never have the same one."""

Value = Any
"""What a model gives for one text: a number of numpy's, an array of them, or what can be copied like that."""

Source = Literal["computed", "shared", "remembered"]
"""Where a text's value came from."""

SEATS = 64
"""Texts that are on their way together: who asks for a few of a thousand does not wait for them all, nor are they all
computed once nobody else wants them."""

ENTRY_BYTES = 128
"""What a remembered value takes beside itself: its key and a place."""


class Memory:
    """Values within so many bytes; to make room, those go first that were not asked for for the longest time."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._held: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()

    def recall(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """Those that are there."""
        with self._lock:
            found = {key: self._held[key] for key in keys if key in self._held}
            for key in found:
                self._held.move_to_end(key)
        return found

    def keep(self, keys: Iterable[Key], values: Iterable[Value]) -> None:
        if not self._size:
            return
        with self._lock:
            for key, value in zip(keys, values, strict=True):
                self._forget(key)
                self._held[key] = value.copy()  # a row would keep all of its batch in memory
                self._taken += _size(self._held[key])
            while self._taken > self._size:
                self._forget(next(iter(self._held)))

    def _forget(self, key: Key) -> None:
        if (value := self._held.pop(key, None)) is not None:
            self._taken -= _size(value)


@dataclass(slots=True, eq=False)
class _Flight:
    """Texts on their way through the batcher, and how many callers wait for any of them."""

    keys: Collection[Key]
    call: Call
    task: asyncio.Task[Ran]
    waiting: int = 0

    def queued(self, since: float) -> float:
        """Seconds that it has waited for the model from then on."""
        return max(self.call.arrived + self.call.queued - since, 0.0)


class Sharer:
    """A batcher for searches. Its callers are of one event loop."""

    def __init__(self, batcher: Batcher, memory: Memory, metrics: Metrics) -> None:
        self.batcher = batcher
        self._memory = memory
        self._flights: dict[Key, _Flight] = {}
        self._sources = {source: metrics.texts.labels(batcher.name, source) for source in get_args(Source)}

    async def run(self, texts: Sequence[Tokens], lap: Lap | None = None, *, fresh: bool = False) -> Ran:
        """The model's values for these texts; fresh ones are not out of memory.

        A caller that is cancelled takes along what nobody else waits for, and its lap is told how long it waited for
        the model. Who waits for the same computation hears of its failure too.
        """
        caller().meter.count(sum(map(len, texts)))
        began, keys = perf_counter(), [key_of(text) for text in texts]
        values = {} if fresh else self._memory.recall(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in values}
        self._count(keys, values, missing)
        if not missing:
            return Ran(_array(values, keys), 0.0, 0.0)
        with self._board(missing) as flights:
            try:
                await asyncio.wait([flight.task for flight in flights])
            except asyncio.CancelledError:
                if lap is not None:
                    lap.queued += min(flight.queued(began) for flight in flights)
                raise
        landed = [flight.task.result() for flight in flights]
        for flight, ran in zip(flights, landed, strict=True):
            values.update(zip(flight.keys, ran.values, strict=True))
        waited = perf_counter() - began
        computed = min(waited, max(ran.computed for ran in landed))
        return Ran(_array(values, keys), waited - computed, computed)

    def _count(self, keys: Sequence[Key], values: Collection[Key], missing: Collection[Key]) -> None:
        remembered, computed = sum(key in values for key in keys), sum(key not in self._flights for key in missing)
        self._sources["remembered"].inc(remembered)
        self._sources["computed"].inc(computed)
        self._sources["shared"].inc(len(keys) - remembered - computed)

    @contextmanager
    def _board(self, missing: Mapping[Key, Tokens]) -> Iterator[list[_Flight]]:
        """What is on its way with any of these texts, and more for the rest, as long as they are waited for."""
        flights = list(dict.fromkeys(self._flights[key] for key in missing if key in self._flights))
        rest = [key for key in missing if key not in self._flights]
        groups = (rest[start : start + SEATS] for start in range(0, len(rest), SEATS))
        flights += [self._take_off({key: missing[key] for key in group}) for group in groups]
        for flight in flights:
            flight.waiting += 1
            flight.call.askers += riders()
        try:
            yield flights
        finally:
            for flight in flights:
                self._leave(flight)

    def _take_off(self, texts: Mapping[Key, Tokens]) -> _Flight:
        call = Call(list(texts.values()), "search", [])
        flight = _Flight(texts.keys(), call, asyncio.create_task(self._compute(texts, call)))
        self._flights |= dict.fromkeys(texts, flight)
        return flight

    def _leave(self, flight: _Flight) -> None:
        """The last one out ends it, if it has not ended: at once, so that nobody waits for what was given up."""
        flight.waiting -= 1
        if not flight.waiting:
            flight.task.cancel()  # of one that has failed, asyncio then complains to nobody
            for key in flight.keys:
                del self._flights[key]

    async def _compute(self, texts: Mapping[Key, Tokens], call: Call) -> Ran:
        ran = await self.batcher.answer(call)
        self._memory.keep(texts, ran.values)
        return ran


def key_of(text: Tokens) -> Key:
    """Takes two microseconds for a pair of usual length."""
    return blake2b(text.ids.tobytes() + text.types.tobytes(), digest_size=16).digest()


def _size(value: Value) -> int:
    return ENTRY_BYTES + getsizeof(value)


def _array(values: Mapping[Key, Value], keys: Sequence[Key]) -> NDArray[Any]:
    """As a batcher gives them: numbers, or objects that are more than a row of numbers."""
    found = [values[key] for key in keys]
    numeric = all(isinstance(each, np.ndarray | np.generic) for each in found)
    return np.array(found, np.float32) if numeric else objects(found)
