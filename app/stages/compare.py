"""Compare: candidates with the query, token by token, by what was kept of each when it was taken in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.late_head import nearness
from models.types import Blend, LateHead, Scores, TokenQuery


def compare(query: TokenQuery, kept: Sequence[bytes | None], late: LateHead) -> Scores:
    """How much of the query each has, -1 to 1; nothing of what nothing was kept of."""
    return nearness(query, [np.frombuffer(numbers or b"", np.int8).reshape(-1, late.width) for numbers in kept])


def blend_of(late: LateHead, mode: str) -> Blend:
    """What puts candidates in order as long as no reranker has read them."""
    return late.blends.dense if mode == "dense" else late.blends.hybrid
