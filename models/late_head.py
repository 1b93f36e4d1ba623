"""Late interaction beside an encoder's vectors: tokens as an earlier layer of the same pass has them, made short.

What lies in the folder `late` of an encoder says how. Texts are read once, when they are taken in; to compare one with
a query afterwards takes no model. For each of the query's tokens the text's nearest one counts, and the rarer it is the
more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.folder import read_blends
from models.types import LateHead, ModelError, Scores, TokenQuery, TokenVectors

FOLDER = "late"
CONFIG, WEIGHTS, BLEND = "config.json", "model.safetensors", "blend.json"

STEPS = 127
"""Of a byte, from zero to the largest number of a vector."""

TINY = 1e-30
"""The largest number of a vector that has none."""


def read_late(path: Path) -> LateHead | None:
    """What an encoder's folder says of late interaction, if it does."""
    folder = path / FOLDER
    if not (folder / CONFIG).is_file():
        return None
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
        numbers = {name: tensor.astype(np.float32) for name, tensor in load_file(folder / WEIGHTS).items()}
        head = LateHead(
            int(config["layer"]), numbers["mean"], numbers["projection"], numbers["rarity"], read_blends(folder)
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder} is damaged: fetch the model again, or remove that folder. {error!r}") from error
    shape = head.projection.shape
    if head.layer < 1 or head.mean.shape != shape[:1] or len(shape) != 2 or head.rarity.ndim != 1:
        raise ModelError(f"{folder} does not fit together: fetch the model again, or remove that folder.")
    return head


def rounded(vectors: NDArray[np.float32]) -> TokenVectors:
    """A byte for each number: the largest of each vector takes all of it, since lengths say nothing."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=TINY)
    return np.asarray(np.rint(vectors * (STEPS / largest)), np.int8)


def nearness(query: TokenQuery, texts: Sequence[TokenVectors]) -> Scores:
    """What each text has of the query: the mean, by weight, of the cosines of its nearest tokens; nothing, where it or
    the query has no token."""
    if not len(query.tokens):
        return np.zeros(len(texts), np.float32)
    wanted = _unit(query.tokens).T
    # Each by itself: products so small stay in this thread, where larger ones are shared out among all cores.
    found = [query.weights @ (_unit(text) @ wanted).max(axis=0) if len(text) else 0.0 for text in texts]
    return np.asarray(found, np.float32)


def nearness_to_first(texts: Sequence[TokenVectors]) -> Scores:
    """Of each text to the first of them, all tokens of which count alike."""
    tokens = len(texts[0])
    return nearness(TokenQuery(texts[0], np.full(tokens, 1 / max(tokens, 1), np.float32)), texts)


def _unit(vectors: TokenVectors) -> NDArray[np.float32]:
    numbers = vectors.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", numbers, numbers))
    return np.asarray(numbers / np.maximum(lengths, 1)[:, None])
