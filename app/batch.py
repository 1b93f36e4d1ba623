"""What waits for a model and what is computed at once: calls, and the batches that are filled from them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.trail import Facts, Trail
from models.types import Tokens

Lane = Literal["search", "ingest"]
"""Who waits: a person, or an indexer."""


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """Values in the order of the texts, and where the seconds went."""

    values: NDArray[Any]
    """Numbers, or objects where a text comes to more than a row of them."""
    queued: float
    computed: float


class Call:
    """One caller's texts on their way through the batches."""

    def __init__(self, items: Sequence[Tokens], lane: Lane, askers: list[Trail]) -> None:
        """The askers are those whose traces tell of it."""
        self.items, self.lane, self.askers = items, lane, askers
        self.arrived, self.begun = perf_counter(), 0.0
        self.lengths = [max(len(item), 1) for item in items]
        self.tokens = sum(self.lengths)
        self.waiting = sorted(range(len(items)), key=self.lengths.__getitem__)
        """Those in no batch yet, the longest last."""
        self.missing, self.over = len(items), False
        self.values: NDArray[Any] | None = None
        self.error: Exception | None = None
        self.done, self._loop = asyncio.Event(), asyncio.get_running_loop()

    def keep(self, items: list[int], values: NDArray[Any]) -> None:
        if self.values is None:
            self.values = np.empty((len(self.items), *values.shape[1:]), values.dtype)
        self.values[items] = values

    def wake(self, error: Exception | None) -> None:
        """Tell the caller, in its own loop; a loop that was closed meanwhile has nobody to tell."""
        self.error = error
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.done.set)

    @property
    def queued(self) -> float:
        """Seconds until the first of it was in a batch, or until now."""
        return (self.begun or perf_counter()) - self.arrived

    def result(self) -> Ran:
        if self.error is not None:
            raise self.error
        assert self.values is not None
        return Ran(self.values, self.queued, perf_counter() - self.begun)


@dataclass(slots=True)
class Batch:
    """Texts that are computed together, each padded to the longest of them."""

    lane: Lane
    budget: int
    most: int
    """Texts; fewer than the budget has room for where the rest is for those that compute beside."""
    parts: list[tuple[Call, list[int]]] = field(default_factory=list)
    longest: int = 0
    count: int = 0
    tokens: int = 0

    @property
    def cost(self) -> int:
        """Tokens that are computed, padding included."""
        return self.longest * self.count

    @property
    def full(self) -> bool:
        return self.count >= self.most or self.longest * (self.count + 1) > self.budget

    def fill(self, call: Call) -> None:
        """Take the call's longest texts that go well with those already here; the first call sets the length."""
        slack = max(64, self.budget // 64)  # padding that one text may bring: about the price of another batch
        length, limit = call.lengths.__getitem__, inf
        if self.count:  # a longer text pads all that are here: the more they are, the less longer it may be
            limit = min(self.longest + slack // self.count, self.budget // (self.count + 1))
        end = bisect_right(call.waiting, limit, key=length)
        longest = max(self.longest, length(call.waiting[end - 1])) if end else self.longest
        room = min(max(self.budget // max(longest, 1), 1), self.most) - self.count
        start = max(bisect_left(call.waiting, longest - slack, key=length), end - room)
        if start < end:
            self.parts.append((call, call.waiting[start:end]))
            self.longest, self.count = longest, self.count + end - start
            self.tokens += sum(map(length, call.waiting[start:end]))
            del call.waiting[start:end]

    def texts(self) -> list[Tokens]:
        return [call.items[item] for call, items in self.parts for item in items]

    def askers(self) -> list[Trail]:
        return [asker for call, _ in self.parts for asker in call.askers]

    def facts(self) -> Facts:
        return {"winnow.lane": self.lane, "winnow.texts": self.count, "winnow.tokens": self.tokens}

    def deal(self, values: NDArray[Any]) -> None:
        """Give each call the values of its own texts."""
        start = 0
        for call, items in self.parts:
            call.keep(items, values[start : start + len(items)])
            start += len(items)


def objects(values: Sequence[Any]) -> NDArray[Any]:
    """In an array as they are, whatever they are made of."""
    made = np.empty(len(values), object)
    made[:] = values
    return made
