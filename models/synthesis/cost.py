"""What requests take: an estimate before the first, the server's own count afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from models.synthesis.pace import Pace
from models.synthesis.types import NOTHING, Usage

BYTES_PER_TOKEN = 4.0
"""UTF-8 bytes in a token: near the truth for the large models' tokenizers in English, and not far off elsewhere."""

QUESTION_TOKENS, ANSWER_TOKENS = 35, 15
"""What a question takes in an answer, and the brackets around all of them. Models that reason write far more."""


class CostReached(Exception):
    """The next request might cost more than is left."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens."""

    prompt: float
    output: float

    def cost(self, usage: Usage) -> float:
        return (usage.prompt * self.prompt + usage.output * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, as far as anybody can say before."""

    requests: int
    usage: Usage
    seconds: float
    """At the limits of its pace; without limits 0."""


def estimate(prompts: Iterable[str], questions: int, pace: Pace) -> Estimate:
    """Every prompt is counted, none is sent."""
    guesses = [guess(prompt, questions) for prompt in prompts]
    return Estimate(len(guesses), sum(guesses, NOTHING), sum(pace.seconds(each.total) for each in guesses))


def guess(prompt: str, questions: int) -> Usage:
    """What a request will take, before any server has counted."""
    return Usage(tokens(prompt), QUESTION_TOKENS * questions + ANSWER_TOKENS)


def tokens(text: str) -> float:
    return len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN


@dataclass(slots=True)
class Meter:
    """What was spent so far. It corrects its guesses by what the server counts."""

    spent: Usage = NOTHING
    prices: Prices | None = None
    limit: float | None = None
    _reserved: Usage = field(default=NOTHING, init=False)
    _under_way: int = field(default=0, init=False)
    _change: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)
    _guessed: Usage = field(default=NOTHING, init=False)
    _counted: Usage = field(default=NOTHING, init=False)
    _longest: float = field(default=0.0, init=False)

    @property
    def cost(self) -> float | None:
        return self.prices.cost(self.spent) if self.prices else None

    def expect(self, first: Usage) -> Usage:
        """A guess, corrected: prompts by the ratio so far, answers by the longest one."""
        ratio = self._counted.prompt / self._guessed.prompt if self._guessed.prompt else 1.0
        return Usage(first.prompt * ratio, max(first.output, self._longest))

    @asynccontextmanager
    async def reserve(self, first: Usage) -> AsyncIterator[Usage]:
        """Set aside what a request may take. Where there is no room for it, those under way may yet make some."""
        async with self._change:
            while self._over(self.spent + self._reserved + (expected := self.expect(first))):
                if not self._under_way:
                    raise CostReached
                await self._change.wait()
            self._set_aside(expected, 1)
        try:
            yield expected
        finally:
            async with self._change:
                self._set_aside(NOTHING - expected, -1)
                self._change.notify_all()

    def spend(self, first: Usage, counted: Usage) -> None:
        self.spent += counted
        self._guessed += first
        self._counted += counted
        self._longest = max(self._longest, counted.output)

    def _set_aside(self, expected: Usage, requests: int) -> None:
        self._reserved += expected
        self._under_way += requests

    def _over(self, usage: Usage) -> bool:
        return self.prices is not None and self.limit is not None and self.prices.cost(usage) > self.limit
