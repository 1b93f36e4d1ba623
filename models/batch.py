"""What goes into a network and what comes out of it, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.types import ModelError, Tokens, Vectors

Inputs = dict[str, NDArray[np.int64]]

TINY = 1e-30
"""The length of a vector that has none."""


def padded(batch: Sequence[Tokens], padding: int, *, with_types: bool, width: int = 0) -> Inputs:
    """A network's inputs, filled up at the end, so that a text's positions don't depend on its neighbours; as wide as
    the longest of them, or wider. A text without tokens is read as one of padding: of nothing at all some networks make
    no numbers."""
    shape = len(batch), max(width, 1, *(len(tokens) for tokens in batch))
    ids, types, mask = np.full(shape, padding, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens.ids
        types[row, : len(tokens)] = tokens.types
        mask[row, : max(len(tokens), 1)] = 1
    return {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if with_types else {})


def worded(vectors: Vectors, batch: Sequence[Tokens]) -> Vectors:
    """The same, with zeros for texts without tokens: they are near nothing, whatever padding is."""
    present = np.array([len(tokens) > 0 for tokens in batch])
    return vectors if present.all() else np.where(present[:, None], vectors, np.float32(0))


def check_finite(name: str, numbers: NDArray[np.float32]) -> None:
    """Refuses what is not made of numbers."""
    if not np.isfinite(numbers).all():
        raise ModelError(f"{name} gave numbers that are not finite: its weights are damaged, or try float32 precision.")
