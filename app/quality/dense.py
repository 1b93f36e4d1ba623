"""Exact dense retrieval: every query with every chunk, in blocks that fit memory."""

from __future__ import annotations

import numpy as np

from app.types import Candidates
from models.types import Scores, Vectors

BLOCK = 2**25
"""Similarities at once: 128 MiB."""


def search(queries: Vectors, chunks: Vectors, depth: int) -> list[Candidates]:
    """For each query the nearest chunks, best first."""
    rows = max(BLOCK // max(len(chunks), 1), 1)
    blocks = (queries[start : start + rows] @ chunks.T for start in range(0, len(queries), rows))
    return [best(scores, depth) for block in blocks for scores in block]


def best(scores: Scores, depth: int) -> Candidates:
    """The highest scores, best first; equals in the order of the chunks."""
    cut = min(depth, len(scores)) - 1
    found = np.sort(np.argpartition(-scores, cut)[: cut + 1])
    order = found[np.argsort(-scores[found], kind="stable")].astype(np.int64)
    return Candidates(order, scores[order].astype(np.float32))
