"""The interval of recall, and how tuning finds the least effort that meets an objective."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from app.quality.observe.recall import MOST_TIMES, SURE, RecallWatch
from app.quality.observe.types import LEAST
from app.quality.statistics import clustered_share, share

Draw = np.random.Generator
K = 10


def alike(draw: Draw, queries: int) -> NDArray[np.float64]:
    """All queries are about as hard: .95 are found."""
    return draw.binomial(K, draw.beta(38, 2, queries)) / K


def mixed(draw: Draw, queries: int) -> NDArray[np.float64]:
    """One query of twenty loses half: .965 are found."""
    return draw.binomial(K, np.where(draw.random(queries) < 0.05, 0.5, 0.99)) / K


def nearly_perfect(draw: Draw, queries: int) -> NDArray[np.float64]:
    """Of most queries everything is found: .995 in all, and what is missed is missed together."""
    return draw.binomial(K, draw.beta(995 / 428, 5 / 428, queries)) / K


@pytest.mark.parametrize("queries", [50, 200, 500])
@pytest.mark.parametrize(
    ("drawn", "truth"), [(alike, 0.95), (mixed, 0.9655), (nearly_perfect, 0.995)], ids=["alike", "mixed", "perfect"]
)
def test_the_interval_covers_the_truth_nineteen_times_of_twenty(
    drawn: Callable[[Draw, int], NDArray[np.float64]], truth: float, queries: int
) -> None:
    draw = np.random.default_rng(queries)
    found = [clustered_share(list(drawn(draw, queries)), K) for _ in range(400)]
    covered = sum(each.low <= truth <= each.high for each in found)
    assert covered >= 0.9 * 400, "too narrow"
    width = np.mean([each.high - each.low for each in found])
    independent = share(truth * queries * K, queries * K)
    assert independent is not None
    assert width < 4 * (independent.high - independent.low) + 2 / queries, "so wide that it tells nothing"


def test_the_interval_for_all_trials_would_be_too_narrow() -> None:
    draw = np.random.default_rng(0)
    found = [share(float(mixed(draw, 200).sum()) * K, 200 * K) for _ in range(400)]
    assert sum(each is not None and each.low <= 0.9655 <= each.high for each in found) < 0.8 * 400


def test_fifty_perfect_answers_do_not_make_a_perfect_graph() -> None:
    found = clustered_share([1.0] * 50, K)
    assert found.mean == found.high == 1.0
    assert 0.9 < found.low < 0.99


def test_queries_that_all_lose_the_same_are_as_many_trials_as_they_have() -> None:
    found, independent = clustered_share([0.9] * 2000, K), share(18000, 20000)
    assert independent is not None
    assert found.low == pytest.approx(independent.low, abs=2e-4)


def watch(objective: float = 0.98, *, tuned: bool = True) -> RecallWatch:
    return RecallWatch(objective, 16, tuned=tuned)


def feed(watching: RecallWatch, recall: Callable[[int], float], searches: int) -> list[int]:
    """The efforts that it goes through when each of them finds so much of every answer."""
    path = [watching.ef]
    for _ in range(searches):
        watching.add({ef: {10: recall(ef)} for ef in watching.efforts})
        if watching.retuned():
            path.append(watching.ef)
    return path


def test_effort_is_raised_until_the_objective_is_met_and_no_further() -> None:
    assert feed(watch(), lambda ef: 1.0 if ef >= 64 else 0.8, 5 * LEAST) == [16, 32, 64]


def test_nothing_is_raised_before_there_are_enough_searches() -> None:
    assert feed(watch(), lambda ef: 0.5, LEAST - 1) == [16]


def test_effort_ends_at_its_limit() -> None:
    watching = watch()
    assert feed(watching, lambda ef: 0.5, 20 * LEAST)[-1] == MOST_TIMES * 16
    report = watching.report()
    assert report is not None
    assert report.exhausted


def test_effort_is_lowered_again_only_when_many_searches_have_shown_that_less_would_do() -> None:
    watching = watch()
    feed(watching, lambda ef: 1.0 if ef >= 64 else 0.8, 5 * LEAST)
    feed(watching, lambda ef: 1.0, SURE - LEAST)
    assert watching.ef == 64
    assert feed(watching, lambda ef: 1.0, 3 * SURE)[-1] == 16
    assert min(feed(watching, lambda ef: 1.0, SURE)) == 16, "it goes below what was set"


def test_who_does_not_ask_for_tuning_has_the_effort_that_was_set() -> None:
    watching = watch(tuned=False)
    assert feed(watching, lambda ef: 0.5, 10 * LEAST) == [16]
    assert watching.efforts == [16]


def test_a_figure_is_of_searches_with_the_present_effort() -> None:
    watching = watch()
    feed(watching, lambda ef: 1.0 if ef >= 32 else 0.5, LEAST)
    found = watching.at(10)
    assert watching.ef == 32
    assert found is not None
    assert (found.value, found.searches) == (1.0, LEAST)
