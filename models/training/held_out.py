"""Keeps part of the data out of training, so that there is something to judge by."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.training.errors import TrainingError
from models.training.settings import Apart

Example = TypeVar("Example")

APART = {"both": " with all of their answers", "queries": ""}
"""How to say what the held-out part shares with the rest."""

Part = Callable[[Example], Hashable]
Query = Callable[[Example], str]


def hold_out(
    examples: Sequence[Example], query: Query[Example], answer: Part[Example], count: int, apart: Apart, seed: int
) -> tuple[list[Example], list[Example]]:
    """What to train on and what to judge by: at most so many queries, and no more than a tenth of them. Queries that
    differ in case alone are one."""
    firsts: dict[str, str] = {}
    for each in examples:
        firsts.setdefault(query(each).casefold(), query(each))

    def asked(each: Example) -> str:
        return firsts[query(each).casefold()]

    count = min(count, max(1, len(firsts) // 10))
    if apart == "queries":
        held = frozenset(random.Random(seed).sample(sorted(firsts.values()), count))
    else:
        held = _whole(examples, asked, answer, count, seed)
    if count and not held:
        raise TrainingError(
            "Nothing can be held out: by their answers the queries hang together in pieces that are too large. "
            "Choose --apart queries, or --held-out 0."
        )
    return [each for each in examples if asked(each) not in held], [each for each in examples if asked(each) in held]


def refuse_nothing(rest: Sequence[Example]) -> None:
    """Of a single query all is held out."""
    if not rest:
        raise TrainingError("Nothing is left to train on: give more than one query, or choose --held-out 0.")


def _whole(
    examples: Sequence[Example], query: Query[Example], answer: Part[Example], count: int, seed: int
) -> frozenset[str]:
    """Queries of whole islands: none of them shares an answer with a query outside."""
    islands = _islands(examples, query, answer)
    held: set[str] = set()
    for island in random.Random(seed).sample(islands, len(islands)):
        if len(held) + len(island) <= count:
            held.update(island)
    return frozenset(held)


def _islands(examples: Sequence[Example], query: Query[Example], answer: Part[Example]) -> list[list[str]]:
    queries = {found: at for at, found in enumerate(dict.fromkeys(map(query, examples)))}
    answers = {found: at for at, found in enumerate(dict.fromkeys(map(answer, examples)), len(queries))}
    ends = [queries[query(each)] for each in examples], [answers[answer(each)] for each in examples]
    size = len(queries) + len(answers)
    count, labels = connected_components(coo_array((np.ones(len(examples)), ends), shape=(size, size)), directed=False)
    islands: list[list[str]] = [[] for _ in range(count)]
    for found, at in queries.items():
        islands[labels[at]].append(found)
    return islands
