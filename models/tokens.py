"""Texts and pairs to token ids that fit a model, with a count of what did not fit. Knows tokenizers, not models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from tokenizers import Encoding, Tokenizer

from models.types import Ids, ModelError, Tokens

TOKENISATION = 1
"""Goes into every fingerprint: raise it when a change in this file changes ids."""

_QUERY_FLOOR = 64


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a tokenizer's post-processor puts special tokens around one sequence or two."""

    gaps: tuple[Ids, ...]
    """Special tokens in front of, between and behind the sequences."""
    types: Ids
    """Of each special token and each sequence, as they follow each other."""
    places: list[int]
    """Which of these are the sequences."""

    def __len__(self) -> int:
        return sum(map(len, self.gaps))

    def wrap(self, parts: Sequence[Ids], total: int) -> Tokens:
        """The sequences with the special tokens around them."""
        ids, lengths = [self.gaps[0]], [1] * len(self.types)
        for part, place, gap in zip(parts, self.places, self.gaps[1:], strict=True):
            ids += [part, gap]
            lengths[place] = len(part)
        return Tokens(np.concatenate(ids), np.repeat(self.types, lengths), total)


class TextTokenizer:
    """A fast tokenizer that any thread may use, that never cuts unsaid and that cuts where it harms least."""

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        _check_words(tokenizer)
        self.tokenizer = _unlimited(tokenizer)
        """Any thread may use it, and none may change it: then the others would fail with "Already borrowed"."""
        self._single = _frame(self.tokenizer.encode("a"))
        self._double = _frame(self.tokenizer.encode("a", "a"))
        self.limit = limit
        self.text_room = limit - len(self._single)
        self.pair_room = limit - len(self._double)
        if min(self.text_room, self.pair_room) < 2:
            raise ModelError(f"A limit of {limit} tokens leaves no room for text: give the model a longer one.")

    @property
    def ends(self) -> bool:
        """Whether a special token stands behind every text."""
        return len(self._single.gaps[-1]) > 0

    def inside(self, tokens: Tokens) -> slice:
        """Where a text's own tokens are, between those that frame it."""
        front, back = len(self._single.gaps[0]), len(self._single.gaps[-1])
        return slice(front, max(len(tokens) - back, front))

    def mark(self, prompt: str = "") -> bytes:
        """Eight bytes that stand for all that shapes the ids of a text behind a prompt."""
        shape = json.dumps([TOKENISATION, self.tokenizer.to_str(), prompt])
        return blake2b(shape.encode(), digest_size=8).digest()

    def count(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self.contents([text])[0])

    def contents(self, texts: Sequence[str]) -> list[Ids]:
        """Each text's ids, whatever will stand around them."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text with its special tokens, cut at the end where it is too long."""
        return self.singles(self.contents(texts))

    def singles(self, contents: Sequence[Ids]) -> list[Tokens]:
        """The same of texts whose ids are there."""
        extra = len(self._single)
        return [self._single.wrap([content[: self.text_room]], len(content) + extra) for content in contents]

    def pairs(self, query: str, contents: Sequence[Ids]) -> list[Tokens]:
        """The query with each text. Too long a query gives way first, down to a floor, so that chunks stay whole."""
        (head,) = self.contents([query])
        return [self._pair(head, content) for content in contents]

    def _pair(self, query: Ids, text: Ids) -> Tokens:
        floor = min(_QUERY_FLOOR, self.pair_room // 2)
        kept = query[: max(floor, self.pair_room - len(text))]
        total = len(query) + len(text) + len(self._double)
        return self._double.wrap([kept, text[: self.pair_room - len(kept)]], total)


def _check_words(tokenizer: Tokenizer) -> None:
    """Refuses one that transformers has made up where there were no files: to it all words are one."""
    added = {None, *(token.content for token in tokenizer.get_added_tokens_decoder().values())}
    if all(tokenizer.id_to_token(number) in added for number in range(tokenizer.get_vocab_size())):
        raise ModelError(
            "The tokenizer knows no word: its files (tokenizer.json, or vocab.txt and the like) are missing beside the "
            "weights. Save it there as well, or fetch the model again."
        )


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
    gaps = tuple(np.asarray(probe.ids[start:end], np.int32) for start, end in list(pairwise(edges))[::2])
    starts = [start for start, _ in spans]
    told = [place for place, number in enumerate(sequences) if number is None or place in starts]
    types = np.asarray([probe.type_ids[place] for place in told], np.int32)
    return _Frame(gaps, types, [told.index(start) for start in starts])


def _span(sequences: Sequence[int | None], number: int) -> tuple[int, int]:
    start = sequences.index(number)
    return start, start + sequences.count(number)
