"""Values by arm and query as arms with intervals and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.quality.measures import MRR, NAMES, NDCG
from app.quality.statistics import Strata, Table, differences, estimates
from app.quality.types import Arm, Difference, Estimate, Measure

TESTED = (NDCG, MRR, "recall@10")
"""Measures that differences are tested for: every one more makes each of them harder to tell from chance."""

REFERENCE = "dense"
"""The arm that the others are compared with."""


def arms(tables: Mapping[str, Strata], seed: int) -> tuple[Arm, ...]:
    """For each arm a table of values for each dataset. The values themselves are kept where there is only one."""
    others = [name for name in tables if name != REFERENCE]
    tests = tested([(tables[name], tables[REFERENCE]) for name in others], seed) if others else []
    versus = dict(zip(others, tests, strict=True))
    found = iter(estimates(_beside(list(tables.values())), seed))
    return tuple(
        Arm(name, tuple(_measure(strata, column, next(found)) for column in range(len(NAMES))), versus.get(name, ()))
        for name, strata in tables.items()
    )


def tested(pairs: Sequence[tuple[Strata, Strata]], seed: int) -> list[tuple[Difference, ...]]:
    """One less the other on the same queries, with Holm's correction over all that are tested together."""
    columns = [NAMES.index(name) for name in TESTED]
    ours = _beside([[values[:, columns] for values in one] for one, _ in pairs])
    theirs = _beside([[values[:, columns] for values in other] for _, other in pairs])
    results = iter(differences(TESTED * len(pairs), ours, theirs, seed))
    return [tuple(next(results) for _ in TESTED) for _ in pairs]


def table(arm: Arm) -> Table:
    """An arm's values again, as they were measured."""
    return np.column_stack([measure.values for measure in arm.measures])


def _measure(strata: Strata, column: int, estimate: Estimate) -> Measure:
    values = tuple(strata[0][:, column].tolist()) if len(strata) == 1 else ()
    return Measure(NAMES[column], estimate, values)


def _beside(wide: Sequence[Strata]) -> Strata:
    """Their columns side by side, dataset by dataset: all of them then share the random draws, which are the cost."""
    return [np.hstack(tables) for tables in zip(*wide, strict=True)]
