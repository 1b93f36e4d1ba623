from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.quality.statistics import DRAWS, differences, estimates, holm

values = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(lambda row: np.array(row)[:, None])


def drawn(seed: int, amount: int, mean: float = 0.5) -> NDArray[np.float64]:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.2, (amount, 1)), 0, 1)


@settings(max_examples=30)
@given(values, st.integers(0, 100))
def test_an_interval_holds_the_mean_and_is_the_same_for_the_same_seed(table: NDArray[np.float64], seed: int) -> None:
    (found,), (again,) = estimates([table], seed), estimates([table], seed)
    assert found == again
    assert found.mean == pytest.approx(table.mean())
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


def test_an_interval_is_as_wide_as_theory_says() -> None:
    table = drawn(1, 400)
    (found,) = estimates([table], 0)
    error = table.std() / np.sqrt(len(table))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_an_interval_covers_the_truth_nineteen_times_of_twenty() -> None:
    draw = np.random.default_rng(0)
    covered = [estimates([draw.beta(4, 2, (60, 1))], 0)[0] for _ in range(100)]
    assert 88 <= sum(found.low <= 4 / 6 <= found.high for found in covered) <= 100


@settings(max_examples=20)
@given(values)
def test_two_runs_that_are_the_same_do_not_differ(table: NDArray[np.float64]) -> None:
    (found,) = differences(["nDCG@10"], [table], [table], 0)
    assert (found.p, found.adjusted) == (1.0, 1.0)
    assert (found.estimate.mean, found.estimate.low, found.estimate.high) == (0.0, 0.0, 0.0)


def test_a_difference_in_every_query_is_found_either_way() -> None:
    worse, better = drawn(1, 50), drawn(1, 50) + 0.1
    (up,), (down,) = (differences(["x"], [one], [other], 0) for one, other in ((better, worse), (worse, better)))
    assert up.p == down.p == 1 / (DRAWS + 1), "what was seen is one of the throws: chance is never ruled out"
    assert up.estimate.mean == pytest.approx(0.1)
    assert down.estimate.mean == pytest.approx(-0.1)


def test_chance_alone_is_rarely_taken_for_a_difference() -> None:
    tests = [differences(["x"], [drawn(seed, 40)], [drawn(seed + 1000, 40)], 0)[0] for seed in range(100)]
    assert sum(test.p < 0.05 for test in tests) <= 12


def test_three_queries_can_be_no_surer_than_their_signs() -> None:
    gains = np.array([[0.1], [0.2], [0.3]])
    (found,) = differences(["x"], [gains], [np.zeros((3, 1))], 0)
    assert found.p == pytest.approx(2 / 8, abs=0.02)


def test_every_dataset_counts_the_same() -> None:
    small, large = np.array([[1.0], [1.0]]), np.zeros((200, 1))
    (found,) = estimates([small, large], 0)
    assert found.mean == 0.5
    (single,) = estimates([drawn(1, 30)], 0)
    (twice,) = estimates([drawn(1, 30), drawn(1, 30)], 0)
    assert twice.high - twice.low < single.high - single.low


def test_holm_is_what_a_hand_computes() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(after >= before for after, before in zip(adjusted, ps, strict=True))
    assert [adjusted[i] for i in np.argsort(ps, kind="stable")] == sorted(adjusted)
