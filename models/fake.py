"""Models without weights whose order makes sense: texts that share words are near. For tests, ours and yours."""

from __future__ import annotations

import ctypes
import hashlib
import math
import threading
import time
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import PreTokenizer, Whitespace

from models.late_head import rounded
from models.types import (
    NO_PROMPTS,
    WHOLE,
    Blend,
    Blends,
    Embedded,
    Ids,
    LateHead,
    ModelError,
    Precision,
    Role,
    Scores,
    SparseVector,
    Tokens,
    TokenVectors,
    Unit,
    Vectors,
)

_WORDS: PreTokenizer = Whitespace()
_START, _BETWEEN = 1, 2
_ORDER_BONUS = 0.1
_VOCABULARY = 2**20
_ROOT_LETTERS = 4

_WORD_NUMBERS = 16
_LATE = LateHead(
    layer=1,
    mean=np.zeros(_WORD_NUMBERS, np.float32),
    projection=np.eye(_WORD_NUMBERS, dtype=np.float32),
    rarity=np.ones(1, np.float32),
    blends=Blends(Blend(rerank=0, dense=1, late=4), Blend(rerank=0, dense=1, lexical=1, late=4)),
)

_QUOTES, _FAILS = "quotes", "fails"
"""Words by which a frail encoder complains of a text and quotes it, as a library may, or as a model of ours."""

_HANGS, _DIES = "hangs", "dies"
"""Words on which a frail model hangs for ever, and of which its thread dies as an extension can make it die."""


class FakeEncoder:
    """A text is the sum of its words, and a word is a fixed random direction; late, it is its words one by one too."""

    device = "cpu"
    runtime = "fake"
    precision: Precision = "float32"
    grain = WHOLE
    prompts = NO_PROMPTS

    def __init__(
        self,
        dimensions: int = 64,
        *,
        max_tokens: int = 512,
        delay: float = 0.0,
        fail_on: str | None = None,
        frail: bool = False,
        late: bool = False,
    ) -> None:
        self.name = "fake:frail" if frail else f"fake:{'late:' if late else ''}{dimensions}"
        self.fingerprint = _fingerprint(self.name, max_tokens)
        self.late = _LATE if late else None
        self.dimensions = dimensions
        self.capacity = max_tokens - 1
        self.calls: list[int] = []
        self._delay = delay
        self._fail_on = fail_on
        self._frail = frail

    @property
    def tokenizer(self) -> Tokenizer:
        return _tokenizer()

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        if self._frail:
            _complain(texts)
        return [_tokens(_word_ids(text), self.capacity) for text in texts]

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """The batch's vectors, after the delay and unless the word to fail on is among its words."""
        if self._frail:
            _break_down(batch)
        _act(self.calls, batch, self._delay, self._fail_on)
        rows = [self._vector(tokens.ids) for tokens in batch]
        return np.stack(rows) if rows else np.zeros((0, self.dimensions), np.float32)

    def inside(self, tokens: Tokens) -> slice:
        return slice(1, len(tokens))

    def encode_whole(self, batch: Sequence[Tokens]) -> list[Embedded]:
        made = zip(self.encode(batch), batch, strict=True)
        return [Embedded(vector, _word_vectors(tokens.ids[self.inside(tokens)])) for vector, tokens in made]

    def _vector(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        # A text without words is left with the start token, so that it too has a direction.
        words = ids[1:] if len(ids) > 1 else ids
        total = np.sum([_direction(int(word), self.dimensions) for word in words], axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)


class FakeSparseEncoder:
    """A text is its words and, half as heavy, their first letters, which it could have had instead; or, looked up, its
    words alone where it is a query."""

    device = "cpu"
    runtime = "fake"
    precision: Precision = "float32"
    prompts = NO_PROMPTS

    def __init__(
        self,
        *,
        max_tokens: int = 512,
        most_terms: int = 256,
        reads_queries: bool = True,
        delay: float = 0.0,
        fail_on: str | None = None,
    ) -> None:
        self.name = "fake" if reads_queries else "fake:lookup"
        self.fingerprint = _fingerprint(f"sparse {self.name} {most_terms}", max_tokens)
        self.capacity = max_tokens - 1
        self.most_terms = most_terms
        self.reads_queries = reads_queries
        self.calls: list[int] = []
        self._roots: dict[int, int] = {}
        self._delay = delay
        self._fail_on = fail_on

    @property
    def tokenizer(self) -> Tokenizer:
        return _tokenizer()

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        for word in {word for text in texts for word, _ in _WORDS.pre_tokenize_str(text)}:
            self._roots[_word_id(word)] = _word_id(word[:_ROOT_LETTERS])
        return [_tokens(_word_ids(text), self.capacity) for text in texts]

    def encode(self, batch: Sequence[Tokens], role: Role) -> list[SparseVector]:
        """The batch's terms, after the delay and unless the word to fail on is among its words."""
        _act(self.calls, batch, self._delay, self._fail_on)
        return [
            self._vector(tokens.ids[1:].tolist(), expands=self.reads_queries or role == "document") for tokens in batch
        ]

    def _vector(self, words: list[int], *, expands: bool) -> SparseVector:
        weights: dict[int, float] = {}
        for word, count in Counter(words).items():
            for term, share in [(word, 1.0), *([(self._roots[word], 0.5)] if expands else [])]:
                weights[term % _VOCABULARY] = weights.get(term % _VOCABULARY, 0) + share * math.log2(1 + count)
        kept = sorted(sorted(weights, key=lambda term: -weights[term])[: self.most_terms])
        return SparseVector(np.asarray(kept, np.int32), np.asarray([weights[term] for term in kept], np.float32))


class FakeReranker:
    """The share of the query's words that a text has, and a little more where they stand in the same order; backwards
    the worst text comes first, slow it takes so many seconds for each, and frail it breaks down on some words."""

    device = "cpu"
    runtime = "fake"
    precision: Precision = "float32"
    grain = WHOLE
    prompts = NO_PROMPTS
    unit: Unit = "logit"
    tokenisation = b"ourwords"

    def __init__(
        self,
        *,
        max_tokens: int = 512,
        delay: float = 0.0,
        fail_on: str | None = None,
        blends: Blends | None = None,
        backwards: bool = False,
        slow: float = 0.0,
        frail: bool = False,
    ) -> None:
        self.name = "fake:backwards" if backwards else "fake:slow" if slow else "fake:frail" if frail else "fake"
        self.fingerprint = _fingerprint(self.name, max_tokens)
        self.blends = blends or Blends()
        self._sign = np.float32(-1 if backwards else 1)
        self.capacity = max_tokens - 2
        self.calls: list[int] = []
        self._delay = delay
        self._slow = slow
        self._frail = frail
        self._fail_on = fail_on

    @property
    def tokenizer(self) -> Tokenizer:
        return _tokenizer()

    def read(self, texts: Sequence[str]) -> list[Ids]:
        return [np.asarray(_word_ids(text), np.int32) for text in texts]

    def pair(self, query: str, texts: Sequence[Ids]) -> list[Tokens]:
        head = _word_ids(query)
        return [_pair(head, text.tolist(), self.capacity) for text in texts]

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return self.pair(query, self.read(texts))

    def score(self, batch: Sequence[Tokens]) -> Scores:
        """The batch's scores, after the delay and unless the word to fail on is among its words."""
        if self._frail:
            _break_down(batch)
        _act(self.calls, batch, self._delay + self._slow * len(batch), self._fail_on)
        return self._sign * np.asarray([_overlap(tokens) for tokens in batch], np.float32)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = _WORDS
    return tokenizer


def _fingerprint(name: str, max_tokens: int) -> str:
    return hashlib.sha256(f"{name} {max_tokens}".encode()).hexdigest()


def _word_ids(text: str) -> list[int]:
    return [_word_id(word) for word, _ in _WORDS.pre_tokenize_str(text)]


@lru_cache(maxsize=65536)
def _word_id(word: str) -> int:
    return 16 + zlib.crc32(word.lower().encode()) % (2**31 - 16)


@lru_cache(maxsize=65536)
def _direction(word: int, dimensions: int) -> NDArray[np.float64]:
    vector = np.random.default_rng(word).standard_normal(dimensions)
    return vector / np.linalg.norm(vector)


def _word_vectors(words: NDArray[np.int32]) -> TokenVectors:
    if not len(words):
        return np.zeros((0, _WORD_NUMBERS), np.int8)
    return rounded(np.stack([_direction(int(word), _WORD_NUMBERS) for word in words]).astype(np.float32))


def _tokens(words: list[int], room: int) -> Tokens:
    ids = np.asarray([_START, *words[:room]], np.int32)
    return Tokens(ids, np.zeros_like(ids), len(words) + 1)


def _pair(query: list[int], text: list[int], room: int) -> Tokens:
    kept = query[: max(room // 2, room - len(text))]
    ids = [_START, *kept, _BETWEEN, *text[: room - len(kept)]]
    types = [int(position > len(kept) + 1) for position in range(len(ids))]
    return Tokens(np.asarray(ids, np.int32), np.asarray(types, np.int32), len(query) + len(text) + 2)


def _overlap(tokens: Tokens) -> float:
    query = tokens.ids[(tokens.types == 0)][1:-1].tolist()
    text = tokens.ids[tokens.types == 1].tolist()
    order = _share(list(pairwise(query)), list(pairwise(text)))
    return (_share(query, text) + _ORDER_BONUS * order) / (1 + _ORDER_BONUS)


def _share(wanted: Sequence[Hashable], present: Sequence[Hashable]) -> float:
    return len(set(wanted) & set(present)) / len(set(wanted)) if wanted else 0.0


def _act(calls: list[int], batch: Sequence[Tokens], delay: float, fail_on: str | None) -> None:
    calls.append(len(batch))
    if delay:
        time.sleep(delay)
    if fail_on is not None and any(_word_id(fail_on) in tokens.ids for tokens in batch):
        raise ModelError(f"This fake model fails on {fail_on!r}, as it was told to.")


def _complain(texts: Sequence[str]) -> None:
    for text in texts:
        if _QUOTES in text:
            raise ValueError(f"can't make anything of {text!r}")
        if _FAILS in text:
            raise ModelError(f"This fake model fails on {text!r}, as it was told to.")


def _break_down(batch: Sequence[Tokens]) -> None:
    words = {int(word) for tokens in batch for word in tokens.ids}
    if _word_id(_HANGS) in words:
        threading.Event().wait()
    if _word_id(_DIES) in words:
        ctypes.CDLL(None).pthread_exit(None)
