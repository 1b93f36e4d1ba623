from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from app.quality.arms import arms
from app.quality.dataset import read
from app.quality.measures import NAMES, NDCG
from app.quality.pipeline import evaluate
from app.quality.reporting import report
from app.quality.types import BASE, Evaluation, Query
from app.quality.variants import Setup, vary
from app.terminal.scoreboard import losses
from app.types import Recipe
from tests.app.quality.folders import bench, write

FAKES = Setup("fake", "fake", Recipe(32, 8))
BETTER = {"q1": {"owl": 1}, "q2": {"whale": 1}}


@pytest.fixture
def evaluations(tmp_path: Path) -> list[Evaluation]:
    """Two datasets with the base and two variants each."""
    datasets = [read(write(tmp_path / "animals")), read(write(tmp_path / "beasts", answers=BETTER))]
    setups = [FAKES, vary(FAKES, "dims=2"), vary(FAKES, "language=none")]
    made = bench()
    return [evaluate(dataset, setup, made, 0)[0] for dataset in datasets for setup in setups]


def test_every_variant_is_tested_against_the_base_on_each_dataset_and_on_all(evaluations: list[Evaluation]) -> None:
    found = report(evaluations, 0).comparisons
    assert {(each.dataset, each.variant) for each in found} == {
        (dataset, variant) for dataset in ("animals", "beasts", None) for variant in ("dims=2", "language=none")
    }
    assert {each.arm for each in found} == {"dense", "fused", "fused+blend"}
    by = {(each.dataset, each.variant, each.arm): each.differences[0] for each in found}
    base, short = evaluations[0], evaluations[1]
    gain = by["animals", "dims=2", "dense"]
    assert gain.measure == NDCG
    assert gain.estimate.mean == pytest.approx(
        short.arm("dense").measure(NDCG).estimate.mean - base.arm("dense").measure(NDCG).estimate.mean
    )
    same = by["animals", "language=none", "dense"]
    assert (same.estimate.mean, same.p, same.adjusted) == (0, 1, 1)
    assert all(test.adjusted >= test.p for each in found for test in each.differences)


def test_the_mean_counts_every_dataset_the_same(evaluations: list[Evaluation]) -> None:
    summaries = report(evaluations, 0).summaries
    assert [each.variant for each in summaries] == ["base", "dims=2", "language=none"]
    first, second = evaluations[0], evaluations[3]
    for arm in summaries[0].arms:
        expected = (
            first.arm(arm.name).measure(NDCG).estimate.mean + second.arm(arm.name).measure(NDCG).estimate.mean
        ) / 2
        assert arm.measure(NDCG).estimate.mean == pytest.approx(expected)
        assert arm.measure(NDCG).values == ()
    assert summaries[0].datasets == ("animals", "beasts")


def test_one_dataset_has_no_mean_and_one_variant_nothing_to_compare(evaluations: list[Evaluation]) -> None:
    found = report(evaluations[:1], 0)
    assert (found.summaries, found.comparisons) == ((), ())


def test_variants_without_a_second_stage_are_compared_by_what_both_have(tmp_path: Path) -> None:
    dataset, made = read(write(tmp_path)), bench()
    whole = evaluate(dataset, FAKES, made, 0)[0]
    first = evaluate(dataset, replace(FAKES, rerank=False, name="first"), made, 0)[0]
    found = report([whole, first], 0).comparisons
    assert {each.arm: each.served for each in found} == {
        "dense": False,
        "fused": False,
        "fused against fused+blend": True,
    }


def test_a_variant_loses_by_what_each_side_is_served_by(evaluations: list[Evaluation]) -> None:
    """Both are the same in every arm; but one of them is no longer reranked."""
    queries = tuple(Query(f"q{number}", "?") for number in range(40))
    good, bad = (np.full((40, len(NAMES)), value) for value in (1.0, 0.2))
    compared = arms({"dense": [bad], "fused": [bad], "fused+blend": [good]}, 0)
    made = replace(evaluations[0], queries=queries, arms=compared)
    unread = replace(made, served="fused", variant="collection=docs~standby")
    assert losses(report([made, replace(made, variant="same")], 0)) == []
    (told,) = losses(report([made, unread], 0))
    assert told.startswith("nDCG@10 -0.800 on animals")
    assert losses(report([replace(unread, variant=BASE), replace(made, variant="better")], 0)) == []


def test_a_report_becomes_json_with_every_querys_value(evaluations: list[Evaluation]) -> None:
    found = orjson.loads(orjson.dumps(report(evaluations, 7)))
    assert found["seed"] == 7
    assert found["versions"]["winnow"]
    first = found["evaluations"][0]
    assert [query["id"] for query in first["queries"]] == ["q1", "q2", "q3", "q4"]
    values = first["arms"][0]["measures"][0]["values"]
    assert sum(values) / 4 == pytest.approx(first["arms"][0]["measures"][0]["estimate"]["mean"])
    assert len(first["settings"]["encoder_fingerprint"]) == 64


def test_the_same_seed_gives_the_same_report(evaluations: list[Evaluation]) -> None:
    one, other = report(evaluations, 1), report(evaluations, 1)
    assert (one.summaries, one.comparisons) == (other.summaries, other.comparisons)
