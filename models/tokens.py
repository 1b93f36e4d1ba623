"""Texts and pairs to token ids that fit a model, with a count of what did not fit. Knows tokenizers, not models."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.types import ModelError, Tokens

Ids = NDArray[np.int32]

TOKENISATION = 1
"""Goes into every fingerprint: raise it when a change in this file changes ids."""

_QUERY_FLOOR = 64


@dataclass(frozen=True, slots=True)
class _Gap:
    """Special tokens beside or between sequences."""

    ids: Ids
    types: Ids


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a tokenizer's post-processor puts special tokens around one sequence or two."""

    gaps: tuple[_Gap, ...]
    types: tuple[int, ...]

    def __len__(self) -> int:
        return sum(len(gap.ids) for gap in self.gaps)

    def wrap(self, parts: Sequence[Ids], total: int) -> Tokens:
        """The sequences with the special tokens around them."""
        ids, types = [self.gaps[0].ids], [self.gaps[0].types]
        for part, kind, gap in zip(parts, self.types, self.gaps[1:], strict=True):
            ids += [part, gap.ids]
            types += [np.full(len(part), kind, np.int32), gap.types]
        return Tokens(np.concatenate(ids), np.concatenate(types), total)


class TextTokenizer:
    """A fast tokenizer that any thread may use, that never cuts unsaid and that cuts where it harms least."""

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self._source = _unlimited(tokenizer).to_str()
        self._local = threading.local()
        self._single = _frame(self._own().encode("a"))
        self._double = _frame(self._own().encode("a", "a"))
        self.limit = limit
        self.text_room = limit - len(self._single)
        self.pair_room = limit - len(self._double)
        if min(self.text_room, self.pair_room) < 2:
            raise ModelError(f"A limit of {limit} tokens leaves no room for text: give the model a longer one.")

    @property
    def ends(self) -> bool:
        """Whether a special token stands behind every text."""
        return len(self._single.gaps[-1].ids) > 0

    def clone(self) -> Tokenizer:
        """A tokenizer of the caller's own, with truncation and padding off."""
        return Tokenizer.from_str(self._source)

    def count(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self._content([text])[0])

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text with its special tokens, cut at the end where it is too long."""
        extra = len(self._single)
        return [
            self._single.wrap([content[: self.text_room]], len(content) + extra) for content in self._content(texts)
        ]

    def pairs(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        """The query with each text. Too long a query gives way first, down to a floor, so that chunks stay whole."""
        head, *contents = self._content([query, *texts])
        return [self._pair(head, content) for content in contents]

    def _pair(self, query: Ids, text: Ids) -> Tokens:
        floor = min(_QUERY_FLOOR, self.pair_room // 2)
        kept = query[: max(floor, self.pair_room - len(text))]
        total = len(query) + len(text) + len(self._double)
        return self._double.wrap([kept, text[: self.pair_room - len(kept)]], total)

    def _content(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self._own().encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def _own(self) -> Tokenizer:
        # Threads that share a fast tokenizer fail with "Already borrowed" when one of them changes its settings.
        tokenizer: Tokenizer | None = getattr(self._local, "tokenizer", None)
        if tokenizer is None:
            tokenizer = self._local.tokenizer = self.clone()
        return tokenizer


def _unlimited(tokenizer: Tokenizer) -> Tokenizer:
    clone = Tokenizer.from_str(tokenizer.to_str())
    clone.no_truncation()
    clone.no_padding()
    return clone


def _frame(probe: Encoding) -> _Frame:
    sequences = probe.sequence_ids
    present = sorted({number for number in sequences if number is not None})
    if len(present) != probe.n_sequences:
        raise ModelError('The tokenizer has no token for the letter "a", so it can\'t be used for text.')
    spans = [_span(sequences, number) for number in present]
    edges = [0, *(edge for span in spans for edge in span), len(sequences)]
    gaps = tuple(_gap(probe, start, end) for start, end in list(pairwise(edges))[::2])
    return _Frame(gaps, tuple(probe.type_ids[start] for start, _ in spans))


def _span(sequences: Sequence[int | None], number: int) -> tuple[int, int]:
    start = sequences.index(number)
    return start, start + sequences.count(number)


def _gap(probe: Encoding, start: int, end: int) -> _Gap:
    return _Gap(np.asarray(probe.ids[start:end], np.int32), np.asarray(probe.type_ids[start:end], np.int32))
