"""Rerank: candidates to their final order, by a cross-encoder and what its training made of the first stage's score."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf

import numpy as np

from app.batcher import Batcher, Permit
from app.errors import Fault, Invalid
from app.sharer import Sharer
from app.telemetry import Lap, Metrics
from app.types import Seen, Truncation
from models.types import Blend, Ids, Reranker, Scores, Tokens

SMOOTHING = 0.3
"""Weight of the newest search in running means."""

NARROWEST = 64
"""Tokens of a chunk that are read beside however long a query; what is left of the room is the query's."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Scored:
    """The cross-encoder's own scores, in the order of the texts, and what it saw of each."""

    scores: Scores
    seen: list[Seen]
    windows: list[Span | None]
    """The part of each text that earned its score, where it was read in parts."""

    @property
    def truncated(self) -> int:
        return sum(each.scored < each.total for each in self.seen)


NOTHING = Scored(np.zeros(0, np.float32), [], [])


@dataclass(frozen=True, slots=True)
class Part:
    """A text, or a window of one, beside the query."""

    whole: int
    """Tokens of all of the text beside the query."""
    span: Span | None
    pair: Tokens


Parts = list[Part]
"""All that is read of one text."""


class Ranker:
    """A reranker that is open, with what its callers share."""

    def __init__(self, reranker: Reranker, sharer: Sharer, metrics: Metrics, pair_tokens: float) -> None:
        self.reranker = reranker
        self._sharer = sharer
        self._metrics = metrics
        self._pair_tokens = pair_tokens
        self._read_share = 1.0
        """Of the candidates of searches that stop reading where no more could be among the best."""

    @property
    def batcher(self) -> Batcher:
        return self._sharer.batcher

    def admit(self, pairs: int, *, adaptive: bool = False, wanted: int = 0, seconds: float = inf) -> Permit:
        """Room for a whole request before any of its work is done, by what pairs have cost so far; where it may stop
        before the last one, by how far such requests went, though never short of as many as it wants; and no more than
        can be read in the time that it has."""
        expected = max(pairs * self._read_share, min(wanted, pairs)) if adaptive else pairs
        return self.batcher.admit(round(min(expected * self._pair_tokens, self.batcher.makes(seconds))))

    def widen(self, texts: Sequence[Parts]) -> Permit:
        """More room for what is read of texts beyond their first windows, which nobody knew of before."""
        return self.batcher.widen(sum(map(cost, texts)) - sum(len(parts[0].pair) for parts in texts))

    async def read(
        self,
        query: str,
        texts: Sequence[str],
        policy: Truncation,
        threads: Executor,
        kept: Sequence[Ids | None] = (),
    ) -> list[Parts]:
        """Each text beside the query, as the cross-encoder will see it. Of some texts the ids may have been kept."""
        known, loop = kept or [None] * len(texts), asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._read, query, texts, policy, known)

    async def score(self, texts: Sequence[Parts], lap: Lap, *, fresh: bool = False) -> Scored:
        ran = await self._sharer.run([part.pair for parts in texts for part in parts], lap, fresh=fresh)
        lap.queued += ran.queued
        scored = _best(texts, ran.values)
        self._metrics.truncations.labels("rerank").inc(scored.truncated)
        self._metrics.windowed.inc(sum(window is not None for window in scored.windows))
        return scored

    async def score_idly(self, texts: Sequence[Parts], lap: Lap) -> Scored:
        """In the line of ingest, so that every search overtakes it; it tells nothing of what searches are like."""
        ran = await self.batcher.run([part.pair for parts in texts for part in parts], "ingest")
        lap.queued += ran.queued
        return _best(texts, ran.values)

    def takes(self, pairs: int) -> float:
        """Seconds to score so many for a search that comes now, by what pairs have cost so far."""
        return self.batcher.takes(round(pairs * self._pair_tokens))

    def _read(self, query: str, texts: Sequence[str], policy: Truncation, kept: Sequence[Ids | None]) -> list[Parts]:
        made = iter(self.reranker.read([text for text, ids in zip(texts, kept, strict=True) if ids is None]))
        pairs = self.reranker.pair(query, [next(made) if ids is None else ids for ids in kept])
        if policy == "refuse" and (cut := sum(pair.truncated for pair in pairs)):
            raise Invalid("The reranker can't read all of it.", [Fault("/query", self._excess(pairs, cut))])
        return [
            [Part(pair.total, *window) for window in self._windows(query, text)]
            if policy == "window" and pair.truncated
            else [Part(pair.total, None, pair)]
            for text, pair in zip(texts, pairs, strict=True)
        ]

    def _windows(self, query: str, text: str) -> Iterator[tuple[Span, Tokens]]:
        """The text in parts that fit beside the query, each sharing a quarter with the next."""
        tokenizer = self.reranker.tokenizer
        taken = len(tokenizer.encode(query, add_special_tokens=False).ids)
        width = max(NARROWEST, self.reranker.capacity - taken)
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        starts = range(0, max(len(offsets) - width // 4, 1), width - width // 4)
        spans = [(offsets[start][0], offsets[min(start + width, len(offsets)) - 1][1]) for start in starts if offsets]
        spans = spans or [(0, len(text))]  # of a text that has no token, such as a space without width
        pairs = self.reranker.tokenize(query, [text[start:end] for start, end in spans])
        return zip(spans, pairs, strict=True)

    def _excess(self, pairs: Sequence[Tokens], cut: int) -> str:
        most = max(pair.total - len(pair) for pair in pairs)
        return (
            f"is too long beside {cut} of {len(pairs)} candidates, by up to {most} tokens: shorten it, or let "
            "on_truncation be window (reads chunks in parts) or report (reads less of the query)"
        )

    def stopped(self, share: float) -> None:
        """A search read so much of its candidates until no more could be among the best."""
        self._read_share += SMOOTHING * (share - self._read_share)

    def learn(self, texts: Sequence[Parts]) -> None:
        """What a search's pairs cost, for those to come; further windows are admitted by themselves."""
        if texts:
            mean = sum(len(parts[0].pair) for parts in texts) / len(texts)
            self._pair_tokens += SMOOTHING * (mean - self._pair_tokens)


def weighed(blend: Blend, first: Mapping[str, Scores], texts: int) -> Scores:
    """What the first stages' scores come to, as far as training found that they add to the reranker's."""
    total = np.zeros(texts, np.float32)
    for stage, weight in (("dense", blend.dense), ("lexical", blend.lexical), ("late", blend.late)):
        if stage in first:
            total += weight * first[stage]
    return total


def cost(parts: Parts) -> int:
    """Tokens that the cross-encoder reads of a text."""
    return sum(len(part.pair) for part in parts)


def joined(one: Scored, other: Scored) -> Scored:
    """What was read first, then what was read next."""
    return Scored(np.concatenate([one.scores, other.scores]), one.seen + other.seen, one.windows + other.windows)


def _best(texts: Sequence[Parts], values: Scores) -> Scored:
    """Of each text its best part. All parts of a text together show all of it, and each as much of the query."""
    ends = np.cumsum([len(parts) for parts in texts])
    best = [int(np.argmax(own)) for own in np.split(values, ends[:-1])] if texts else []
    starts = [end - len(parts) for end, parts in zip(ends.tolist(), texts, strict=True)]
    scores = values[[start + place for start, place in zip(starts, best, strict=True)]]
    windows = [parts[place].span for parts, place in zip(texts, best, strict=True)]
    return Scored(scores, [_seen(parts) for parts in texts], windows)


def _seen(parts: Parts) -> Seen:
    whole = parts[0].whole
    return Seen(whole, whole - max(part.pair.total - len(part.pair) for part in parts))
