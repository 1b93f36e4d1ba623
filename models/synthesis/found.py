"""The round trip: a question stays if an encoder finds its passage by it, which noisy questions seldom survive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from models.synthesis.corpus import Corpus, distinct, wording
from models.synthesis.harvest import Asked
from models.types import BiEncoder, Role, Tokens, Vectors

BATCH_TOKENS = 4096
READ_AHEAD = 512
"""Texts that are sorted by length before they are cut into batches."""
BLOCK = 256
"""Questions that are compared with the corpus at once."""

Watch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Which questions found their passage."""

    found: list[Asked]
    missed: int
    cut: int
    """Passages of which the encoder read only the beginning."""


def round_trip(asked: Sequence[Asked], corpus: Corpus, encoder: BiEncoder, k: int, watch: Watch) -> RoundTrip:
    """Search the whole corpus exactly with every question; its passage must be among the first k."""
    rows: dict[str, int] = {}
    passages, cut = _embed(encoder, _texts(corpus, rows), "document", watch)
    questions, _ = _embed(encoder, (each.query for each in asked), "query", lambda _: None)
    own = [rows[wording(each.passage)] for each in asked]
    ranks = _ranks(questions, passages, own)
    found = [each for each, rank in zip(asked, ranks, strict=True) if rank < k]
    return RoundTrip(found, len(asked) - len(found), cut)


def _texts(corpus: Corpus, rows: dict[str, int]) -> Iterator[str]:
    for passage in distinct(corpus):
        rows[wording(passage)] = len(rows)
        yield passage.titled


def _embed(encoder: BiEncoder, texts: Iterable[str], role: Role, watch: Watch) -> tuple[Vectors, int]:
    """A row for each text, and how many texts were cut."""
    parts, cut, waiting = [np.zeros((0, encoder.dimensions), np.float32)], 0, iter(texts)
    while block := encoder.tokenize(list(islice(waiting, READ_AHEAD)), role):
        parts.append(_encode(encoder, block))
        cut += sum(tokens.truncated for tokens in block)
        watch(sum(map(len, parts)))
    return np.concatenate(parts), cut


def _encode(encoder: BiEncoder, block: Sequence[Tokens]) -> Vectors:
    vectors = np.empty((len(block), encoder.dimensions), np.float32)
    order = sorted(range(len(block)), key=lambda row: -len(block[row]))
    while order:
        size = max(1, BATCH_TOKENS // max(1, len(block[order[0]])))
        batch, order = order[:size], order[size:]
        vectors[batch] = encoder.encode([block[row] for row in batch])
    return vectors


def _ranks(questions: Vectors, passages: Vectors, own: Sequence[int]) -> list[int]:
    """How many passages are nearer to each question than its own."""
    ranks: list[int] = []
    for start in range(0, len(questions), BLOCK):
        scores = questions[start : start + BLOCK] @ passages.T
        mine = scores[np.arange(len(scores)), own[start : start + BLOCK]]
        ranks += (scores > mine[:, None]).sum(axis=1).tolist()
    return ranks
