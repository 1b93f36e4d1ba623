"""What goes into a network and what comes out of it, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.types import ModelError, Tokens

Inputs = dict[str, NDArray[np.int64]]


def padded(batch: Sequence[Tokens], padding: int, *, with_types: bool, width: int = 0) -> Inputs:
    """A network's inputs, filled up at the end, so that a text's positions don't depend on its neighbours; as wide as
    the longest of them, or wider."""
    shape = len(batch), max(width, *(len(tokens) for tokens in batch))
    ids, types, mask = np.full(shape, padding, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens.ids
        types[row, : len(tokens)] = tokens.types
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if with_types else {})


def check_finite(name: str, numbers: NDArray[np.float32]) -> None:
    """Refuses what is not made of numbers."""
    if not np.isfinite(numbers).all():
        raise ModelError(f"{name} gave numbers that are not finite: its weights are damaged, or try float32 precision.")
