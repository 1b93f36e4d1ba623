"""The second stage: what the first one proposes, read by the reranker in waves, as hits in their final order."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from app.service.candidates import Proposal
from app.stages.pace import LEAST, onward, wave
from app.stages.rerank import NOTHING, Parts, Ranker, Scored, Span, cost, joined, weighed
from app.stores.documents import Found
from app.telemetry import Lap, Stopwatch
from app.types import Hit, Seen, StageScore, Truncation
from models.types import Blend, Scores


@dataclass(frozen=True, slots=True)
class Brief:
    """What the second stage has to know of a search."""

    text: str
    policy: Truncation
    blend: Blend
    top_k: int
    adaptive: bool
    """Whether to stop where no more of them could come among the best."""
    deadline: float | None
    """By the event loop's clock."""

    def left(self) -> float | None:
        return None if self.deadline is None else self.deadline - asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Ranked:
    """All candidates in their final order, and how many of them were read."""

    hits: list[Hit]
    read: int
    truncated: int = 0
    """Of how many only a part was read."""
    late: bool = False
    """The deadline came before all that was wanted had been read."""


class SecondStage:
    """Reranks: everything at once, unless a deadline may end it before, or the rest's having no chance."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    async def rank(self, ranker: Ranker, brief: Brief, proposal: Proposal, watch: Stopwatch) -> Ranked:
        with watch.stage("rerank") as lap:
            texts = [found.reads for found in proposal.found]
            kept = [found.ids for found in proposal.found]
            parts = await ranker.read(brief.text, texts, brief.policy, self._threads, kept)
            known = {stage: opinion.scores for stage, opinion in proposal.opinions.items()}
            first = weighed(brief.blend, known, len(texts))
            with ranker.widen(parts):
                scored, late = await self._read(ranker, brief, parts, first, lap)
        if not scored.seen:
            return Ranked(unread(proposal), 0, late=late and bool(texts))
        final = first + brief.blend.rerank * _supposed(scored.scores, len(texts))
        return Ranked(_ordered(proposal, final, scored), len(scored.seen), scored.truncated, late)

    async def _read(
        self, ranker: Ranker, brief: Brief, parts: list[Parts], first: Scores, lap: Lap
    ) -> tuple[Scored, bool]:
        """As many of the candidates, best first, as there is time for and need of; and whether time ran out."""
        scored = NOTHING
        while wanted := _wanted(brief, first, scored):
            begin = len(scored.seen)
            amount = _in_time(ranker, brief, parts[begin : begin + wanted])
            if not amount:
                return scored, True
            try:
                async with asyncio.timeout_at(brief.deadline):
                    scored = joined(scored, await ranker.score(parts[begin : begin + amount], lap))
                    ranker.learn(parts[begin : begin + amount])
            except TimeoutError:
                return scored, True
        if brief.adaptive and parts:
            ranker.stopped(len(scored.seen) / len(parts))
        return scored, False


def _wanted(brief: Brief, first: Scores, scored: Scored) -> int:
    """How many of the candidates that are left would better be read."""
    if not brief.adaptive:
        return len(first) - len(scored.seen)
    return onward(first, brief.blend.rerank * scored.scores, brief.top_k)


def _in_time(ranker: Ranker, brief: Brief, parts: list[Parts]) -> int:
    """How many of them the next wave takes."""
    left, batcher = brief.left(), ranker.batcher
    if left is None:
        return len(parts)
    amount = wave([cost(each) for each in parts], left, batcher.takes)
    return min(LEAST, len(parts)) if not amount and left > 0 and batcher.may_be_faster() else amount


def _supposed(read: Scores, texts: int) -> Scores:
    """What was not read counts as the worst that was: it may be better, and nobody knows."""
    return np.concatenate([read, np.full(texts - len(read), read.min(), np.float32)])


def unread(proposal: Proposal) -> list[Hit]:
    """The first stage's order."""
    return _ordered(proposal, proposal.scores, NOTHING)


def _ordered(proposal: Proposal, final: Scores, scored: Scored) -> list[Hit]:
    """Hits by final score; equals stay in first-stage order."""
    ranks = _ranks(scored.scores)
    return [
        _hit(proposal, place, float(final[place]), scored, ranks)
        for place in np.argsort(-final, kind="stable").tolist()
    ]


def _hit(proposal: Proposal, place: int, score: float, scored: Scored, ranks: list[int]) -> Hit:
    found = proposal.found[place]
    stages = {
        stage: StageScore(float(opinion.scores[place]), opinion.ranks[place])
        for stage, opinion in proposal.opinions.items()
    }
    seen, window = Seen(found.tokens, found.tokens), None  # a chunk fits its encoder by construction
    if place < len(scored.seen):
        stages["rerank"] = StageScore(float(scored.scores[place]), ranks[place])
        seen, window = scored.seen[place], _window(found, scored.windows[place])
    return Hit(
        chunk=found.chunk,
        document=found.document,
        title=found.title,
        text=found.text,
        start=found.start,
        end=found.end,
        metadata=found.metadata,
        score=score,
        stages=stages,
        tokens=seen,
        window=window,
        place=found.place,
    )


def _window(found: Found, span: Span | None) -> Span | None:
    """Where in the document a part of what the reranker read stands; the title in front of it stands nowhere."""
    if span is None:
        return None
    ahead = len(found.reads) - len(found.text)
    start, end = (found.start + max(edge - ahead, 0) for edge in span)
    return start, end


def _ranks(scores: Scores) -> list[int]:
    """Each one's place among them, counted from 1."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return list(ranks.tolist())
