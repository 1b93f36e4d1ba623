"""Scores and vectors of texts that callers bring along: by the models alone, without an index or a first stage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.allowance import at_least
from app.batcher import Room
from app.caller import caller
from app.errors import Overloaded
from app.stages.embed import Embedder
from app.stages.rerank import Parts, Ranker, cost
from app.telemetry import Lap, Metrics, Stopwatch
from app.types import Seen, Truncation
from app.witness import Traffic
from models import cards
from models.types import BiEncoder, Role, Scores, Tokens, Unit, Vectors

T = TypeVar("T")

LIKE_A_SEARCH = 2048
"""Tokens to embed that go with the searches: a question or a few texts. More gives way to them, as ingest does."""

SLICE = 256
"""Texts that are in the line of ingest at once, so that whoever else is there gets a turn."""

EMBEDDED = (64, 128, 256)
"""Lengths that the embedded encoder's head was fitted to, beside its own."""

EDGE = 1e-7
"""As near to 0 and 1 as probabilities in single precision tell themselves apart from them."""


class TooLong(Exception):
    """Some texts are longer than the model reads, and the caller wants all or nothing."""

    def __init__(self, seen: Mapping[int, Seen]) -> None:
        super().__init__(f"{len(seen)} texts are too long")
        self.seen = seen
        """By the text's place."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the reranker thinks of texts."""

    scores: Scores
    """As the model gives them, in the order of the texts."""
    cut: list[int]
    """Places of the texts of which only a part was read, or where the query was not read whole."""
    tokens: int
    """How many the model read."""

    @property
    def order(self) -> list[int]:
        """Places of the texts, best first; equals stay in their order."""
        return list(np.argsort(-self.scores, kind="stable").tolist())


@dataclass(frozen=True, slots=True)
class Embedding:
    """Vectors of texts, in their order."""

    vectors: Vectors
    cut: list[int]
    tokens: int


class Scoring:
    """Ranks and embeds with the models of the settings, in the batches of searches and of ingest."""

    def __init__(
        self, embedder: Embedder, ranker: Ranker, metrics: Metrics, traffic: Traffic, most: int, threads: Executor
    ) -> None:
        """With room for so many tokens of long requests."""
        self.encoder, self.reranker = embedder.encoder, ranker.reranker
        self.since = int(time())
        self._embedder = embedder
        self._ranker = ranker
        self._metrics = metrics
        self._traffic = traffic
        self._room = Room(most)
        self._threads = threads

    async def rank(self, query: str, texts: Sequence[str], policy: Truncation, most: int | None = None) -> Ranking:
        """Each text beside the query; of a text no more than so many tokens."""
        with self._traffic.passing(), Stopwatch(self._metrics, "rerank").stage("rerank") as lap:
            with self._ranker.batcher.admit(self._least(query, texts, most)):
                read = texts if most is None else await self._in_thread(self._shortened, texts, most)
                parts = await self._read(query, read, policy)
            tokens = sum(map(cost, parts))
            with self._ranker.batcher.admit(tokens):
                scored = await self._ranker.score(parts, lap)
        cut = [
            place
            for place, seen in enumerate(scored.seen)
            if seen.scored < seen.total or len(read[place]) < len(texts[place])
        ]
        return Ranking(scored.scores, cut, tokens)

    async def embed(self, texts: Sequence[str], role: Role, policy: Truncation) -> Embedding:
        with self._traffic.passing(), Stopwatch(self._metrics, "embed").stage("embed") as lap:
            caller().meter.expect(at_least(texts))
            tokens = await self._in_thread(self.encoder.tokenize, texts, role)
            cut = {place: Seen(each.total, len(each)) for place, each in enumerate(tokens) if each.truncated}
            self._metrics.truncations.labels("embed").inc(len(cut))
            if cut and policy == "refuse":
                raise TooLong(cut)
            vectors = await self._encode(tokens, lap)
        return Embedding(vectors, list(cut), sum(map(len, tokens)))

    async def _read(self, query: str, texts: Sequence[str], policy: Truncation) -> list[Parts]:
        parts = await self._ranker.read(query, texts, "window" if policy == "window" else "report", self._threads)
        pairs = {place: own[0].pair for place, own in enumerate(parts) if own[0].pair.truncated}
        if pairs and policy == "refuse":
            raise TooLong({place: Seen(pair.total, len(pair)) for place, pair in pairs.items()})
        return parts

    async def _encode(self, tokens: Sequence[Tokens], lap: Lap) -> Vectors:
        amount, batcher = sum(map(len, tokens)), self._embedder.batcher
        if len(tokens) == 1 or amount <= LIKE_A_SEARCH:
            with batcher.admit(amount):
                parts = [await self._embedder.sharer.run(tokens, lap)]
        else:
            with self._admit(amount):
                caller().meter.pay(amount)
                slices = [tokens[start : start + SLICE] for start in range(0, len(tokens), SLICE)]
                parts = [await batcher.run(each, "ingest") for each in slices]
        lap.queued += sum(ran.queued for ran in parts)
        return np.concatenate([ran.values for ran in parts])

    @contextmanager
    def _admit(self, tokens: int) -> Iterator[None]:
        """Room for a long request: those that give way wait in memory, so that there is an end to it."""
        batcher, who = self._embedder.batcher, caller()
        if lacking := self._room.lacks(who, tokens):
            self._metrics.refusals.labels(batcher.name).inc()
            wait = batcher.takes(round(lacking))
            told = f"{self._room.taken} tokens wait to be embedded; come back in {wait:.1f} s."
            raise Overloaded(told, wait)
        self._room.add(tokens, who.name)
        try:
            yield
        finally:
            self._room.add(-tokens, who.name)

    def _least(self, query: str, texts: Sequence[str], most: int | None) -> int:
        """Tokens that the pairs have in any case; what those of searches have says nothing of others."""
        read = min(self.reranker.capacity, most or self.reranker.capacity)
        return sum(min(at_least([query, text]), read) for text in texts)

    def _shortened(self, texts: Sequence[str], most: int) -> list[str]:
        """The texts' first tokens, as text."""
        encodings = self.reranker.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ends = [each.offsets[most - 1][1] if len(each.ids) > most else None for each in encodings]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)


def probabilities(scores: Scores, unit: Unit) -> NDArray[np.float64]:
    """Scores between 0 and 1. Of what is neither a logit nor a probability, the order alone says something."""
    wide = scores.astype(np.float64)
    if unit == "logit":
        return np.exp(-np.logaddexp(0, -wide))
    return wide if unit == "probability" else (1 + wide / (1 + np.abs(wide))) / 2


def logits(scores: Scores, unit: Unit) -> NDArray[np.float64]:
    """Scores without an activation, as far as they can be had."""
    wide = scores.astype(np.float64)
    if unit != "probability":
        return wide
    inside = np.clip(wide, EDGE, 1 - EDGE)
    return np.log(inside) - np.log1p(-inside)


def is_length(encoder: BiEncoder, length: int) -> bool:
    """Whether vectors can be cut to a length: to those that the encoder was trained for, as far as that is known."""
    if encoder.name == "embedded":
        return length in (*EMBEDDED, encoder.dimensions)
    card = cards.known_as(encoder.name, Path(encoder.name))
    shorter = card.matryoshka if card else []
    least = card.shortest if card and card.shortest else encoder.dimensions
    return length in shorter or least <= length <= encoder.dimensions
