"""Reports as `winnow evaluate` makes them, from numbers drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from app.quality.measures import NAMES, NDCG
from app.quality.statistics import Table, differences, estimates
from app.quality.types import (
    Arm,
    Ceiling,
    Comparison,
    Curve,
    Estimate,
    Evaluation,
    Latency,
    Measure,
    Point,
    Query,
    Report,
    Summary,
)

ARMS = {
    "dense": 0.6, "lexical": 0.5, "fused": 0.66,
    "dense+rerank": 0.64, "dense+blend": 0.72, "fused+rerank": 0.65, "fused+blend": 0.75,
}  # fmt: skip
CEILINGS = {"dense": 0.93, "lexical": 0.86, "fused": 0.95}
STAGES = {"embed": 4.1, "dense": 0.7, "lexical": 0.9, "fuse": 0.2, "rerank": 310.0}
SEED = 7


def report(
    queries: Sequence[str] = ("why is the sea salty?", "who wrote Faust?", "how do vaccines work?"),
    *,
    datasets: Sequence[str] = ("scifact",),
    variants: Sequence[str] = ("base",),
    warnings: tuple[str, ...] = (),
    timed: bool = True,
) -> Report:
    evaluations = tuple(
        evaluation(name, variant, queries, warnings, timed=timed) for name in datasets for variant in variants
    )
    summaries = tuple(
        Summary(variant, tuple(datasets), arms(len(queries))) for variant in variants if len(datasets) > 1
    )
    compared = tuple(
        Comparison(each.dataset, each.variant, each.served, each.arms[-1].versus_dense)
        for each in evaluations
        if each.variant != "base"
    )
    versions = {"winnow": "0.1.0", "torch": "2.9"}
    return Report("2026-11-21T13:30:00+00:00", versions, SEED, evaluations, summaries, compared)


def evaluation(
    dataset: str, variant: str, queries: Sequence[str], warnings: tuple[str, ...] = (), *, timed: bool = True
) -> Evaluation:
    return Evaluation(
        dataset=dataset,
        split="test",
        variant=variant,
        settings={"encoder": "embedded", "fingerprint": "3fa9", "candidates": 50, "language": None},
        documents=5183,
        chunks=7012,
        queries=tuple(Query(f"q{place}", text) for place, text in enumerate(queries)),
        served="dense+blend",
        arms=arms(len(queries)),
        ceilings=tuple(Ceiling(first, 50, around(mean), around(mean + 0.02)) for first, mean in CEILINGS.items()),
        latencies=tuple(Latency(stage, p50, 1.4 * p50, 50) for stage, p50 in STAGES.items()),
        curves=(curve("dense+blend", timed=timed), curve("fused+blend", timed=timed)),
        warnings=warnings,
    )


@cache
def arms(queries: int) -> tuple[Arm, ...]:
    draw = np.random.default_rng(SEED)
    tables = {name: _drawn(draw, mean, queries) for name, mean in ARMS.items()}
    return tuple(arm(name, table, tables["dense"]) for name, table in tables.items())


def arm(name: str, table: Table, dense: Table) -> Arm:
    found = [
        Measure(measure, estimate, tuple(column.tolist()))
        for measure, estimate, column in zip(NAMES, estimates([table], SEED), table.T, strict=True)
    ]
    against = () if name == "dense" else differences([NDCG], [table[:, :1]], [dense[:, :1]], SEED)
    return Arm(name, tuple(found), tuple(against))


def curve(arm: str, *, timed: bool) -> Curve:
    *points, auto = (
        Point(amount, around(0.72 - 0.3 / amount), around(0.8), 160.0 * amount, 9.1 * amount if timed else None)
        for amount in (5, 10, 20, 50, 100, 31.4)
    )
    return Curve(arm, tuple(points), 20, "the fewest candidates that no larger number beats", auto)


def around(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.02, mean + 0.02)


def _drawn(draw: np.random.Generator, mean: float, queries: int) -> Table:
    """Recall rises with its depth, as it does."""
    table = np.clip(draw.normal(mean, 0.3, (queries, len(NAMES))), 0, 1)
    depths = [place for place, name in enumerate(NAMES) if name.startswith("recall")]
    table[:, depths] = np.sort(table[:, depths], axis=1)
    return table
