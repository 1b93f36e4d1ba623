"""A running service's answers as an evaluation: what came back at each stage, against what was judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.quality.arms import arms
from app.quality.first_stages import first_stages
from app.quality.measures import DEPTH, NDCG, measure
from app.quality.pipeline import LATE, few, latency
from app.quality.statistics import estimates
from app.quality.types import Ceiling, Dataset, Evaluation, Latency, Option, Query, Run
from app.quality.variants import Setup
from app.types import Mode

Answer = Mapping[str, Any]
"""What /search answers."""

REACH = 500
"""Chunks that the first stage is asked for, so that they hold 100 documents."""

MODES: Mapping[str, Mode] = {"dense": "dense", "lexical": "lexical", "sparse": "sparse", "fused": "hybrid"}
"""How a service is asked for each of the first stages."""

SECOND = "blend"
"""How it reranks."""


@dataclass(frozen=True, slots=True)
class Usual:
    """How a service answers a search of the collection that says no more than its query."""

    mode: Mode = "hybrid"
    rerank: bool = True

    @property
    def first(self) -> str:
        return next(first for first, mode in MODES.items() if mode == self.mode)

    def compares(self, setup: Setup) -> bool:
        """Whether candidates that nobody reads are put in order by their tokens."""
        return setup.late and self.mode in ("hybrid", "dense")

    def served(self, setup: Setup) -> str:
        """The arm that it answers by."""
        second = SECOND if self.rerank else LATE if self.compares(setup) else ""
        return f"{self.first}+{second}" if second else self.first


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """By query: of each first stage, and with the second one."""

    usual: Usual
    first: Mapping[str, Sequence[Answer]]
    second: Sequence[Answer]
    timed: int
    """How many were asked one at a time, so that their timings are those of a service at rest."""


def questions(query: Query, setup: Setup, usual: Usual) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The searches that one query takes: each first stage, deep, and the usual one reranked with all candidates in the
    answer."""
    asked = {"query": query.text, "collection": setup.collection, "fusion": setup.fusing, "include": ["stages"]}
    first = first_stages(sparse=bool(setup.sparse))
    deep = {each: asked | {"mode": MODES[each], "top_k": REACH, "rerank": False, "late": False} for each in first}
    whole = asked | {"mode": usual.mode, "top_k": setup.depth, "candidates": setup.depth, "late": setup.late}
    compared = {f"{usual.first}+{LATE}": whole | {"rerank": False}} if usual.compares(setup) else {}
    return deep | compared, whole | {"rerank": True}


def evaluation(
    dataset: Dataset, setup: Setup, answers: Answers, settings: Mapping[str, Option], notes: Sequence[str], seed: int
) -> tuple[Evaluation, list[Run]]:
    runs = _runs(dataset, answers)
    tables = {run.arm: [measure(run, dataset.judgements, dataset.queries)] for run in runs}
    made = Evaluation(
        dataset=dataset.name,
        split=dataset.split,
        variant=setup.name,
        settings=settings,
        documents=len(dataset.documents),
        chunks=0,
        queries=dataset.queries,
        served=answers.usual.served(setup),
        arms=arms(tables, seed),
        ceilings=(_ceiling(dataset, setup, answers, seed),),
        latencies=tuple(_latencies(answers)),
        warnings=(*few(dataset), *dataset.notes, *notes),
    )
    return made, runs


def _runs(dataset: Dataset, answers: Answers) -> list[Run]:
    def run(arm: str, found: Sequence[Answer], stage: str | None) -> Run:
        ranked = (_documents(answer, stage) for answer in found)
        return Run(arm, {query.id: each for query, each in zip(dataset.queries, ranked, strict=True)})

    stages = {first: first if first in MODES else None for first in answers.first}
    return [
        *(run(first, found, stages[first]) for first, found in answers.first.items()),
        run(f"{answers.usual.first}+rerank", answers.second, "rerank"),
        run(f"{answers.usual.first}+{SECOND}", answers.second, None),
    ]


def _documents(answer: Answer, stage: str | None) -> dict[str, float]:
    """The best documents with the scores of their best chunks, by a stage or, without one, by the final score."""
    found: dict[str, float] = {}
    for hit in answer["hits"]:
        score = float(hit["stages"][stage]["score"] if stage else hit["score"])
        found[hit["document_id"]] = max(score, found.get(hit["document_id"], score))
    return dict(sorted(found.items(), key=lambda each: -each[1])[:DEPTH])


def _ceiling(dataset: Dataset, setup: Setup, answers: Answers, seed: int) -> Ceiling:
    best = {
        query.id: {
            hit["document_id"]: float(dataset.judgements[query.id].get(hit["document_id"], 0)) for hit in answer["hits"]
        }
        for query, answer in zip(dataset.queries, answers.second, strict=True)
    }
    names = (f"recall@{setup.depth}", NDCG)
    first = answers.usual.first
    recall, ndcg = estimates([measure(Run(first, best), dataset.judgements, dataset.queries, names)], seed)
    return Ceiling(first, setup.depth, recall, ndcg)


def _latencies(answers: Answers) -> list[Latency]:
    """By the service's own clock."""
    timed = answers.second[: answers.timed]
    stages = {stage: [_seconds(answer["timings"][stage]) for answer in timed] for stage in timed[0]["timings"]}
    stages["total"] = [answer["total_ms"] / 1000 for answer in timed]
    return [latency(stage, seconds) for stage, seconds in stages.items()]


def _seconds(lap: Mapping[str, float]) -> float:
    return (lap["queue"] + lap["compute"]) / 1000
