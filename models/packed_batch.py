"""Texts one behind the other in a single row, without padding: as arrays, and as what a transformer is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.types import Tokens

PART = 16384
"""Tokens that are computed together. It keeps a large GPU busy, and more would be packed while the GPU waits."""

_IDS, _TYPES, _PLACES, _OWNERS = range(4)

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """What fixes the kernels of a forward pass; texts that are fewer or shorter than it says fit as well."""

    tokens: int
    texts: int
    longest: int

    @staticmethod
    def of(batch: Sequence[Tokens]) -> Shape:
        lengths = [len(text) for text in batch]
        return Shape(sum(lengths), len(lengths), max(lengths))

    @property
    def rounded(self) -> Shape:
        """A larger one of a few: with a text more that the tokens in excess count to, and a place where it begins."""
        return Shape(_stepped(self.tokens + 1), _power(self.texts + 1, 8), _power(self.longest, 64))

    @property
    def numbers(self) -> int:
        """Of the array that holds such a batch: four for each token, and where texts begin and end."""
        return 4 * self.tokens + self.texts + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How texts lie in an array, and what a model wants to know of it."""

    with_types: bool = False
    uncounted: int | None = None
    """The padding token of models that count positions as RoBERTa does: from behind its number, and without it."""
    with_mask: bool = False
    """Whether a head reads what comes out, and so wants to know how much of it each text has."""
    first_alone: bool = True
    """Whether that head reads only the first token of each."""

    def write(self, numbers: Numbers, batch: Sequence[Tokens], shape: Shape) -> None:
        """Fills an array for that shape. Tokens in excess belong to no text, texts in excess have no tokens."""
        lengths = np.asarray([len(text) for text in batch])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total = offsets[-1]
        rows, ends = numbers[: 4 * shape.tokens].reshape(4, shape.tokens), numbers[4 * shape.tokens :]
        rows[:, total:] = 0
        rows[_OWNERS, total:] = len(batch)
        rows[_IDS, :total] = np.concatenate([text.ids for text in batch])
        rows[_TYPES, :total] = np.concatenate([text.types for text in batch])
        rows[_PLACES, :total] = self._places(rows[_IDS, :total], offsets[:-1], lengths)
        rows[_OWNERS, :total] = np.repeat(np.arange(len(batch)), lengths)
        ends[len(batch) :] = total
        ends[: len(batch)] = offsets[:-1]

    def features(self, numbers: Tensor, shape: Shape) -> dict[str, Any]:
        """In the names that transformers and sentence-transformers have for texts without padding."""
        rows, ends = numbers[: 4 * shape.tokens].view(4, 1, -1), numbers[4 * shape.tokens :].to(torch.int32)
        told: dict[str, Any] = {"input_ids": rows[_IDS], "position_ids": rows[_PLACES], "seq_idx": rows[_OWNERS]}
        for side in ("q", "k"):
            told |= {f"cu_seq_lens_{side}": ends, f"max_length_{side}": shape.longest}
        if self.with_types:
            told["token_type_ids"] = rows[_TYPES]
        if self.with_mask:
            steps = torch.arange(1 if self.first_alone else shape.longest, device=ends.device)
            told["attention_mask"] = (steps < ends.diff()[:, None]).long()
        return told

    def _places(self, ids: Numbers, starts: Numbers, lengths: Numbers) -> Numbers:
        """Which position of its text each token has."""
        counted = np.ones_like(ids) if self.uncounted is None else (ids != self.uncounted).astype(np.int64)
        running = np.concatenate([[0], np.cumsum(counted)])
        places: Numbers = running[1:] - np.repeat(running[starts], lengths)
        return places - 1 if self.uncounted is None else places * counted + self.uncounted


def parts(batch: Sequence[Tokens], most: int = PART) -> Iterator[Sequence[Tokens]]:
    """A batch in its order, in pieces of so many tokens, or of one text that is longer."""
    start = tokens = 0
    for number, text in enumerate(batch):
        if number > start and tokens + len(text) > most:
            yield batch[start:number]
            start, tokens = number, 0
        tokens += len(text)
    yield batch[start:]


def _stepped(tokens: int) -> int:
    """The next of eight steps between two powers of two."""
    step = max(_power(tokens, 64) // 16, 8)
    return -(-tokens // step) * step


def _power(count: int, least: int) -> int:
    """The next power of two."""
    return max(1 << (count - 1).bit_length(), least)
