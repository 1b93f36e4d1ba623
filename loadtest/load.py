"""Questions asked of a service in two ways, and how long each took.

closed loop   so many clients, each of which asks again when it has its answer: what the service can do at most
open loop     questions arrive at a fixed rate, whether or not the ones before are answered, as people's do. Time
              counts from the moment at which a question was to arrive: one slow answer shows in all behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Literal

import numpy as np

Ask = Callable[[str], Awaitable[list[str]]]
"""Asks one question of a service and returns the ids that it found, best first."""

PERCENTILES = (50, 95, 99)


class Refused(Exception):
    """The service has too much to do, and says when to come again."""

    def __init__(self, after: float) -> None:
        super().__init__(f"refused for {after} seconds")
        self.after = after


class Failed(Exception):
    """Neither an answer nor a refusal; the text says what."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one question went; where it was given up, `seconds` is how long it waited: it would have taken more."""

    question: str
    outcome: Literal["answered", "refused", "failed", "given up"]
    seconds: float
    found: tuple[str, ...] = ()
    refusals: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """All answers to one way of asking."""

    answers: tuple[Answer, ...]
    lasted: float

    @property
    def answered(self) -> int:
        return self.count("answered")

    @property
    def rate(self) -> float:
        return self.answered / self.lasted

    @property
    def refusals(self) -> int:
        return sum(answer.refusals for answer in self.answers)

    def count(self, outcome: str) -> int:
        return sum(answer.outcome == outcome for answer in self.answers)

    def percentiles(self) -> dict[str, float] | None:
        """In milliseconds, of all that were answered or given up; None where there are none."""
        waited = [answer.seconds for answer in self.answers if answer.outcome in ("answered", "given up")]
        if not waited:
            return None
        values = 1000 * np.percentile(waited, PERCENTILES)
        return {f"p{share}": float(value) for share, value in zip(PERCENTILES, values, strict=True)}


async def closed_loop(ask: Ask, questions: Iterator[str], clients: int, seconds: float, patience: float) -> Load:
    """Nobody asks after `seconds`; all that were asked are waited for, and count with the time that this takes."""
    began = perf_counter()
    each = (_client(ask, questions, began + seconds, patience) for _ in range(clients))
    answers = [answer for given in await asyncio.gather(*each) for answer in given]
    return Load(tuple(answers), perf_counter() - began)


async def open_loop(
    ask: Ask, questions: Iterator[str], rate: float, seconds: float, patience: float, *, evenly: bool = True
) -> Load:
    """Arrivals evenly spaced, or at random moments, as those of people are. Who is refused goes away; who waits for
    longer than `patience` gives up."""
    amount, chance = max(1, round(rate * seconds)), Random(1)
    moments = [number / rate if evenly else chance.uniform(0, seconds) for number in range(amount)]
    began = perf_counter()
    arrivals = [asyncio.create_task(_arrive(ask, next(questions), began + moment, patience)) for moment in moments]
    answers = await asyncio.gather(*arrivals)
    return Load(tuple(answers), max(seconds, perf_counter() - began))


async def _client(ask: Ask, questions: Iterator[str], until: float, patience: float) -> list[Answer]:
    answers = []
    while perf_counter() < until:
        answers.append(await _insist(ask, next(questions), patience))
    return answers


async def _insist(ask: Ask, question: str, patience: float) -> Answer:
    """Asks until there is an answer, as a caller does that is told to come again: that time counts too."""
    began, refusals = perf_counter(), 0
    while True:
        left = began + patience - perf_counter()
        try:
            return await _timed(ask, question, began, left, refusals)
        except Refused as refused:
            refusals += 1
            await asyncio.sleep(min(refused.after, max(0.0, left)))


async def _arrive(ask: Ask, question: str, planned: float, patience: float) -> Answer:
    await asyncio.sleep(planned - perf_counter())
    try:
        return await _timed(ask, question, planned, patience, refusals=0)
    except Refused:
        return Answer(question, "refused", perf_counter() - planned, refusals=1)


async def _timed(ask: Ask, question: str, since: float, patience: float, refusals: int) -> Answer:
    try:
        async with asyncio.timeout(patience):
            found = await ask(question)
    except TimeoutError:
        return Answer(question, "given up", perf_counter() - since, refusals=refusals)
    except Failed as error:
        return Answer(question, "failed", perf_counter() - since, refusals=refusals, trouble=str(error))
    return Answer(question, "answered", perf_counter() - since, tuple(found), refusals)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the right answers those of a service are."""

    compared: int
    overlap: float
    same_first: float


def likeness(answers: Sequence[Answer], right: dict[str, list[str]]) -> Likeness | None:
    """Over all answers to questions whose right answer is known; None where there are none."""
    pairs = [(a.found, right[a.question]) for a in answers if a.outcome == "answered" and a.question in right]
    if not pairs:
        return None
    overlap = np.mean([len({*found} & {*known}) / len(known) for found, known in pairs])
    first = np.mean([found[:1] == tuple(known[:1]) for found, known in pairs])
    return Likeness(len(pairs), float(overlap), float(first))
