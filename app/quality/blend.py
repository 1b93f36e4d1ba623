"""Where what is known of a candidate meets the weights that training found: the only place that knows both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.types import Blend, Reranker, Scores

SECOND = ("rerank", "blend")
"""Ways to order candidates."""

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Of each candidate the cross-encoder's score, the cosine, and the share of the query's words that it has."""

    rerank: Scores
    dense: Scores
    lexical: Scores

    def weighed(self, weights: Weights) -> Scores:
        return np.asarray(np.stack([self.rerank, self.dense, self.lexical], axis=1) @ weights, np.float32)


def weights(reranker: Reranker, first: str, second: str) -> Weights:
    """What decides in the second stage: the cross-encoder alone (`rerank`), or the reranker's own blend for candidates
    of this first stage (`blend`)."""
    blend = Blend() if second == "rerank" else blend_of(reranker, first)
    return np.array([blend.rerank, blend.dense, blend.lexical], np.float32)


def blend_of(reranker: Reranker, first: str) -> Blend:
    return {"dense": reranker.blends.dense, "fused": reranker.blends.hybrid}[first]
