"""Calibrate: final scores to probabilities of relevance, by what labels taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.types import Scale

Numbers = NDArray[np.float64]

LEVEL = 10
"""A search must look at so many candidates to know its level."""
MOST_SHARE = 2.0
"""Of level and rival: with more of them a score itself would hardly count."""


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Scores of one query's candidates, and what they have to stand out from."""

    scores: Numbers
    level: float
    """What the best candidates score in the mean: some queries have high scores all over."""
    rivals: Numbers
    """What the best of the others scores: the first of several that are alike is less sure than one far ahead."""

    def of(self, places: Sequence[int]) -> Standing:
        """That of some of them."""
        return replace(self, scores=self.scores[places], rivals=self.rivals[places])

    def above(self, background: float, rival: float) -> Numbers:
        """How far each stands out. No order among them changes, as long as neither share is below zero."""
        return self.scores - background * self.level - rival * self.rivals


def standing(scores: Numbers, documents: Sequence[str]) -> Standing:
    """Of all candidates, whose documents these are. The first one's rival is the best of another document, since chunks
    of one document do not contend; where there is none it would score no more than the last."""
    first = int(np.argmax(scores))
    rivals = np.full(len(scores), scores[first])
    others = scores[[document != documents[first] for document in documents]]
    rivals[first] = others.max() if len(others) else scores.min()
    return Standing(scores, float(np.sort(scores)[-LEVEL:].mean()), rivals)


def probabilities(scale: Scale, stands: Standing) -> Numbers:
    """In log-odds straight from knot to knot, and flat beyond the scores that anybody labelled."""
    known = np.asarray(scale.relevance)
    odds = np.interp(stands.above(scale.background, scale.rival), scale.scores, np.log(known / (1 - known)))
    return np.asarray(1 / (1 + np.exp(-odds)))
