"""What shows that a model says in one runtime what it says in another: a few texts, and how far numbers may differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.batch import TINY

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "int8": 0.2}
"""How far a model may be from torch with padding in float32, by what it computes in: of vectors 1 - cosine, of scores
the difference beside the largest of them, or beside 1."""

QUERY = "why is the sea salty?"
# The last is longer than the windows in which ModernBERT's layers look around.
TEXTS = (
    "Rivers carry dissolved salts into the sea; the water evaporates and the salts stay.",
    "",
    "Zürich, Łódź and 東京 are cities.",
    "Tides rise and fall because the moon pulls on the ocean, twice a day in most places. " * 10,
)


def distance(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Of vectors to those of unit length, or of scores: between the two that differ most."""
    if expected.shape[1] == 1:
        return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1))
    worded = expected.any(axis=1)  # of a text without tokens there is nothing to say
    lengths = np.maximum(np.linalg.norm(got, axis=1), TINY)
    return float(1 - ((got * expected).sum(axis=1) / lengths)[worded].min())
