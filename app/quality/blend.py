"""Where what is known of a candidate meets the weights that training found: the only place that knows both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.types import Blend, Blends, Reranker, Scores

SECOND = ("rerank", "blend")
"""Ways to order candidates."""

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Of each candidate the cross-encoder's score, the cosine, the share of the query's words that it has, and what it
    has of the query token by token."""

    rerank: Scores
    dense: Scores
    lexical: Scores
    late: Scores

    def weighed(self, weights: Weights) -> Scores:
        rows = np.stack([self.rerank, self.dense, self.lexical, self.late], axis=1)
        return np.asarray(rows @ weights, np.float32)


def weights(reranker: Reranker, first: str, second: str) -> Weights:
    """What decides in the second stage: the cross-encoder alone (`rerank`), or the reranker's own blend for candidates
    of this first stage (`blend`)."""
    return weights_of(Blend() if second == "rerank" else blend_of(reranker.blends, first))


def weights_of(blend: Blend) -> Weights:
    return np.array([blend.rerank, blend.dense, blend.lexical, blend.late], np.float32)


def blend_of(blends: Blends, first: str) -> Blend:
    return {"dense": blends.dense, "fused": blends.hybrid}[first]
