"""Pace: how many candidates to read next, so that a deadline is kept and none is read that has no chance."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from models.types import Scores

LEAST = 4
"""Texts of a wave: fewer would cost a device about as much."""

HOPE = 0.9
"""A text may gain by being read what this share of those read did not exceed."""

SHARE = 0.7
"""Of the time that is left, what a wave is given: how long it takes is a guess, and the next one can make up for it."""


def wave(costs: Sequence[int], seconds: float, takes: Callable[[int], float]) -> int:
    """How many of the texts that are left can be read in time, by what so many tokens take; 0 when it is too late."""
    totals = list(accumulate(costs))
    amount = bisect_right(totals, SHARE * seconds, key=takes)
    least = min(LEAST, len(costs))
    if amount >= least:
        return amount
    return least if least and takes(totals[least - 1]) <= seconds else 0


def onward(first: Scores, gains: Scores, top_k: int) -> int:
    """How many texts to read next where reading may end before the last: to begin with as many as are wanted, then only
    as far as one could still come among them. `first` is what is known of each text unread, `gains` what reading added
    to those read so far.
    """
    read = len(gains)
    if read < top_k:
        return min(max(top_k, LEAST), len(first)) - read
    needed = np.partition(first[:read] + gains, -top_k)[-top_k]
    hopeful = np.flatnonzero(first[read:] + np.quantile(gains, HOPE) > needed)
    return min(int(hopeful[-1]) + 1, max(LEAST, -(-top_k // 2))) if len(hopeful) else 0


def enough(first: Scores, gains: Scores, top_k: int) -> int:
    """How many are read in the end, were these the gains of all."""
    read = 0
    while wanted := onward(first, gains[:read], top_k):
        read += wanted
    return read
