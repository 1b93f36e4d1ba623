from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from app.quality.monotone import Labelled, fit
from app.quality.reliability import (
    DRAWS,
    Errors,
    Expected,
    Reliability,
    calibration_error,
    errors,
    expected,
    read_as_probabilities,
    reliability,
)
from app.quality.statistics import ratios, share
from app.stages.calibrate import Standing
from tests.app.quality.test_monotone import contested, drawn


def test_the_error_is_the_mean_distance_over_bins_of_equally_many() -> None:
    said = np.array([0.1] * 10 + [0.8] * 10)
    relevant = np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 6 + [0.0] * 4)
    halves = [abs(0.1 - part) for part in (0, 0, 0, 0, 1)] + [abs(0.8 - part) for part in (1, 1, 1, 0, 0)]
    assert calibration_error(said, relevant) == pytest.approx(np.mean(halves))
    assert calibration_error(np.full(5, 0.5), np.full(5, 0.5)) == 0


def test_the_error_of_many_documents_takes_no_memory_for_each_draw() -> None:
    draw = np.random.default_rng(0)
    queries = [Expected(draw.random(50), (draw.random(50) < 0.1).astype(float), 1) for _ in range(100)]
    tracemalloc.start()
    errors(queries, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < DRAWS / 5 * 8 * 100 * 50


def test_a_map_fitted_to_one_half_is_right_on_the_other() -> None:
    """Of a thousand queries whose candidates are relevant with probabilities that are known."""
    measured = halves(drawn(1000, lambda scores: 1 / (1 + np.exp(3 - scores))))
    for found in (measured.shown, measured.first, measured.candidates):
        assert found.ece.mean <= 0.05
        assert found.ece.low <= found.ece.mean <= found.ece.high
        assert found.chance <= 0.05
    assert [each.hits for each in (measured.shown, measured.first, measured.candidates)] == [5000, 500, 10000]
    assert [each.hits for each in measured.bins] == [500] * 10
    assert sum(each.seen.low <= each.expected <= each.seen.high for each in measured.bins) >= 8
    precisions = [each.precision.mean for each in measured.thresholds if each.precision]
    assert precisions == sorted(precisions)
    assert all(precision >= each.at for precision, each in zip(precisions, measured.thresholds, strict=True))


def test_the_first_documents_error_is_no_more_than_chance_makes() -> None:
    """Where just one document can be relevant, the first one's chances hang on its rival, whom a map must see."""
    every = [contested(1000, seed) for seed in range(4)]
    seen = [firsts(queries) for queries in every]
    assert np.mean([each.ece.mean - each.chance for each in seen]) <= 0.015
    blind = firsts([replace(each, standing=alone(each.standing)) for each in every[0]])
    assert blind.ece.mean - blind.chance >= 0.05


def test_probabilities_that_are_far_off_are_found_out() -> None:
    draw = np.random.default_rng(2)
    queries = [Expected(np.full(10, 0.9), (draw.random(10) < 0.3).astype(float), 3) for _ in range(100)]
    measured = reliability(queries, 0)
    assert measured.shown.ece.mean == pytest.approx(0.6, abs=0.05)
    assert measured.shown.ece.low > measured.shown.chance


def test_a_bin_of_nothing_but_misses_is_not_sure_of_it() -> None:
    (first, *_) = reliability([Expected(np.full(10, 0.1), np.zeros(10), 0)] * 30, 0).bins
    assert (first.seen.mean, first.hits) == (0, 30)
    assert first.seen.high > 0.1


def test_a_rerankers_own_scores_are_read_as_probabilities_where_they_can_be_and_as_log_odds_otherwise() -> None:
    assert read_as_probabilities(np.array([0.0, 0.3, 1.0])).tolist() == [0.0, 0.3, 1.0]
    assert read_as_probabilities(np.array([-2000.0, 0.0, 1.0])) == pytest.approx([0, 0.5, 0.7311], abs=1e-4)


def test_thresholds_count_what_is_shown_missed_and_refused() -> None:
    answered = Expected(np.array([0.95, 0.6]), np.array([1.0, 0.0]), 2)
    missed = Expected(np.array([0.6, 0.2]), np.array([0.0, 1.0]), 1)
    refused = Expected(np.array([0.4, 0.1]), np.zeros(2), 0)
    fooled = Expected(np.array([0.8, 0.1]), np.zeros(2), 0)
    half, _, most = reliability([answered, missed, refused, fooled] * 30, 0).thresholds
    figures = [
        [each and each.mean for each in (row.precision, row.recall, row.answered, row.refused)] for row in (half, most)
    ]
    assert figures == [[1 / 4, 1 / 3, 1 / 2, 1 / 2], [1, 1 / 3, 1 / 2, 1]]


def test_shares_of_nothing_are_unknown() -> None:
    (row, *_) = reliability([Expected(np.array([0.1]), np.array([1.0]), 1)] * 5, 0).thresholds
    assert row.precision is None
    assert row.refused is None
    assert row.recall is not None


def test_a_ratio_is_of_sums_and_its_interval_holds_it() -> None:
    over, under = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[2.0, 0.0], [2.0, 0.0]])
    share, none = ratios(over, under, 0)
    assert none is None
    assert share is not None
    assert (share.low, share.mean, share.high) == (0.5, 1.0, 1.5)


def test_twenty_of_twenty_are_not_all() -> None:
    every, none = share(20, 20), share(0, 20)
    assert share(0, 0) is None
    assert every is not None
    assert none is not None
    assert [every.low, every.mean, every.high] == pytest.approx([0.839, 1, 1], abs=1e-3)
    assert [none.low, none.mean, none.high] == pytest.approx([0, 0, 0.161], abs=1e-3)


def halves(queries: Sequence[Labelled]) -> Reliability:
    """What a map that the first half was fitted to is worth on the second one."""
    return reliability(learned(queries), 0)


def firsts(queries: Sequence[Labelled]) -> Errors:
    """Of the first documents of the second half."""
    return errors([each.first(1) for each in learned(queries)], 0)


def learned(queries: Sequence[Labelled]) -> list[Expected]:
    """What the first half teaches to expect of the second one."""
    middle = len(queries) // 2
    scale = fit(queries[:middle], 0).scale
    return [expected(scale, each, int(each.relevant.sum())) for each in queries[middle:]]


def alone(stands: Standing) -> Standing:
    """As if nobody had a rival."""
    return replace(stands, rivals=np.zeros(len(stands.rivals)))
