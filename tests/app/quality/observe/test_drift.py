"""Drift is seen when searches change, and hardly ever when they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.quality.observe.drift import LEAST, WINDOW, DriftWatch, kolmogorov_smirnov, null_level
from app.quality.observe.types import Signal

KIND = "hybrid, reranked"

Numbers = NDArray[Any]


def differ(before: Numbers, after: Numbers) -> bool:
    return kolmogorov_smirnov(before.tolist(), after.tolist()) > null_level(len(before), len(after))


def feed(watching: DriftWatch, scores: Numbers) -> None:
    for score in scores.tolist():
        watching.add(KIND, {"top_score": score, "query_distance": 1 - score})


def compared(before: Numbers, after: Numbers) -> Signal | None:
    watching = DriftWatch()
    feed(watching, before)
    feed(watching, after)
    report = watching.report()
    assert report is not None
    return report.signals[0] if report.signals else None


def test_the_same_distribution_is_hardly_ever_taken_for_another() -> None:
    draw = np.random.default_rng(0)
    pairs = [(draw.standard_normal(WINDOW), draw.standard_normal(amount)) for amount in (100, 500) for _ in range(1000)]
    alarms = sum(differ(*pair) for pair in pairs)
    assert alarms <= 8, "2 of 2,000 are to be expected"


def test_scores_that_repeat_themselves_are_not_taken_for_drift() -> None:
    draw = np.random.default_rng(1)
    pairs = [(draw.integers(0, 4, WINDOW), draw.integers(0, 4, LEAST)) for _ in range(500)]
    assert sum(differ(*pair) for pair in pairs) <= 3


def test_a_window_that_slides_over_the_same_searches_stays_quiet() -> None:
    draw = np.random.default_rng(2)
    watching = DriftWatch()
    feed(watching, draw.beta(5, 2, WINDOW))
    moved = []
    for _ in range(40):
        feed(watching, draw.beta(5, 2, LEAST))
        report = watching.report()
        assert report is not None
        moved += [signal.moved for signal in report.signals]
    assert sum(moved) == 0


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_shift_of_half_a_deviation_is_seen(shift: float) -> None:
    draw = np.random.default_rng(3)
    found = compared(draw.standard_normal(WINDOW), shift + draw.standard_normal(WINDOW))
    assert found is not None
    assert found.moved
    assert found.median - found.reference_median == pytest.approx(shift, abs=0.2)


def test_a_handful_of_other_searches_says_nothing() -> None:
    draw = np.random.default_rng(4)
    assert compared(draw.standard_normal(WINDOW), 5 + draw.standard_normal(LEAST - 1)) is None


def test_searches_of_another_kind_are_not_compared() -> None:
    watching = DriftWatch()
    feed(watching, np.linspace(0, 1, WINDOW))
    for _ in range(WINDOW):
        watching.add("lexical, not reranked", {"top_score": 20.0})
    report = watching.report()
    assert report is not None
    assert (report.kind, report.signals) == (KIND, [])


def test_a_reference_that_was_asked_for_is_of_the_latest_searches() -> None:
    watching = DriftWatch()
    feed(watching, np.linspace(0, 1, WINDOW))
    assert not watching.refer(), "there is nothing new to take"
    feed(watching, np.linspace(5, 6, LEAST))
    assert watching.refer()
    assert watching.reference is not None
    assert watching.reference.searches == LEAST
    assert watching.is_low(KIND, 4.9)
    assert not watching.is_low(KIND, 5.5)


def test_the_distance_is_what_a_hand_computes() -> None:
    assert kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert kolmogorov_smirnov([1, 2], [1, 2]) == 0.0
    assert kolmogorov_smirnov([1, 1, 1], [2]) == 1.0
