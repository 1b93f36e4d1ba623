"""Evaluations together: means over datasets, and variants against the base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TypeVar

from app.quality.arms import arms, table, tested
from app.quality.types import BASE, Comparison, Evaluation, Report, Summary

Thing = TypeVar("Thing")

PACKAGES = ("winnow", "ir-measures", "pytrec_eval-terrier", "tantivy", "numpy", "torch", "transformers")


def report(evaluations: Sequence[Evaluation], seed: int) -> Report:
    return Report(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in PACKAGES},
        seed=seed,
        evaluations=tuple(evaluations),
        summaries=tuple(_summaries(evaluations, seed)),
        comparisons=tuple(_comparisons(evaluations, seed)),
    )


def _summaries(evaluations: Sequence[Evaluation], seed: int) -> Iterator[Summary]:
    """Of the arms that every dataset has."""
    datasets = _distinct(each.dataset for each in evaluations)
    if len(datasets) < 2:
        return
    for variant in _distinct(each.variant for each in evaluations):
        ours = [each for each in evaluations if each.variant == variant]
        names = [arm.name for arm in ours[0].arms]
        tables = {name: [table(each.arm(name)) for each in ours] for name in names}
        yield Summary(variant, tuple(datasets), arms(tables, seed))


def _comparisons(evaluations: Sequence[Evaluation], seed: int) -> Iterator[Comparison]:
    """For each dataset, and for all of them; Holm's correction is over the tests of one dataset."""
    datasets = _distinct(each.dataset for each in evaluations)
    groups = [(name, [each for each in evaluations if each.dataset == name]) for name in datasets]
    for name, group in [*groups, *([(None, list(evaluations))] if len(datasets) > 1 else [])]:
        yield from _compare(name, group, seed)


def _compare(dataset: str | None, group: Sequence[Evaluation], seed: int) -> Iterator[Comparison]:
    """By the arms of one stage, and by what a service would answer by with either."""
    base = [each for each in group if each.variant == BASE]
    wanted, pairs = [], []
    for variant in _distinct(each.variant for each in group if each.variant != BASE):
        ours = [each for each in group if each.variant == variant]
        served = ours[0].served, base[0].served
        for one, other in _distinct([("dense", "dense"), ("fused", "fused"), served]):
            wanted.append((variant, one if one == other else f"{one} against {other}", (one, other) == served))
            pairs.append(([table(each.arm(one)) for each in ours], [table(each.arm(other)) for each in base]))
    tests = tested(pairs, seed) if pairs else []
    for (variant, arm, is_served), differences in zip(wanted, tests, strict=True):
        yield Comparison(dataset, variant, arm, differences, is_served)


def _distinct(things: Iterable[Thing]) -> list[Thing]:
    return list(dict.fromkeys(things))
