"""Fuse: several rankings to one, by what every stage makes of all that any of them found, or by ranks alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from app.types import Candidates, ChunkIds, Fusion
from models.types import Scores

SAMPLE = 50
"""The best of each ranking, which say what a usual score is: always so many, or the order would hang on how much of it
is asked for."""

Gains = NDArray[np.float64]

FLOOR = -1.0
"""What a stage says against a chunk at most. The one text that has a rare word is far below all that is near: without
an end to that, its word could not save it."""

ALIKE = 1e-6
"""Scores that spread no more than this are all the same: what is left is rounding."""


def found(rankings: Mapping[str, Candidates]) -> ChunkIds:
    """Every chunk that any of them has, in the order of the first that has it."""
    chunks = np.concatenate([ranking.chunks for ranking in rankings.values()])
    _, first = np.unique(chunks, return_index=True)
    return chunks[np.sort(first)].astype(np.int64)


def fuse(rankings: Mapping[str, Candidates], scores: Mapping[str, Scores], fusion: Fusion) -> Candidates:
    """All that was found, best first; equals in the order of the first ranking. Scores are in the order of `found`."""
    chunks = found(rankings)
    if fusion.by == "ranks":
        gains = [_by_rank(chunks, ranking, fusion.k) * fusion.weight(name) for name, ranking in rankings.items()]
    else:
        usual = np.isin(chunks, np.concatenate([ranking.chunks[:SAMPLE] for ranking in rankings.values()]))
        gains = [_by_score(scores[name], usual) * fusion.weight(name) for name in rankings]
    totals = np.sum(gains, axis=0)
    order = np.argsort(-totals, kind="stable")
    return Candidates(chunks[order], totals[order].astype(np.float32))


def _by_rank(chunks: ChunkIds, ranking: Candidates, k: int) -> Gains:
    """1 / (k + rank); nothing for a chunk that the ranking does not have."""
    ranks = {chunk: rank for rank, chunk in enumerate(ranking.chunks.tolist(), 1)}
    return np.array([1 / (k + ranks[chunk]) if chunk in ranks else 0.0 for chunk in chunks.tolist()])


def _by_score(scores: Scores, usual: NDArray[np.bool_]) -> Gains:
    """By how many standard deviations a score is above the usual one."""
    exact = scores.astype(np.float64)
    spread = exact[usual].std() if usual.any() else 0.0
    if spread < ALIKE:
        return np.zeros_like(exact)
    return ((exact - float(exact[usual].mean())) / float(spread)).clip(FLOOR)
