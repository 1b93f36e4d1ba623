from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.stages.pace import LEAST, SHARE, enough, onward, wave
from models.types import Scores

costs = st.lists(st.integers(1, 400), max_size=80)
seconds = st.floats(0, 5)
rates = st.floats(100, 1e6)


@given(costs, seconds, rates)
def test_a_wave_takes_no_longer_than_the_time_that_is_left(texts: list[int], left: float, rate: float) -> None:
    amount = wave(texts, left, lambda tokens: tokens / rate)
    assert 0 <= amount <= len(texts)
    assert sum(texts[:amount]) / rate <= left
    if amount > LEAST:
        assert sum(texts[:amount]) / rate <= SHARE * left, "more than the least leaves room for a wrong guess"


@given(costs, seconds, rates)
def test_there_is_a_wave_as_long_as_the_least_one_fits(texts: list[int], left: float, rate: float) -> None:
    least = texts[:LEAST]
    fits = bool(texts) and sum(least) / rate <= left
    assert bool(wave(texts, left, lambda tokens: tokens / rate)) == fits


def test_with_time_for_all_there_is_one_wave() -> None:
    assert wave([100] * 50, 10.0, lambda tokens: tokens / 5000) == 50


def test_who_waits_in_front_makes_a_wave_smaller() -> None:
    def takes(ahead: int) -> int:
        return wave([100] * 50, 0.5, lambda tokens: (ahead + tokens) / 5000)

    assert takes(0) > takes(1000) > takes(10_000) == 0


def falling(step: float, texts: int = 100) -> Scores:
    return np.arange(texts, 0, -1, dtype=np.float32) * np.float32(step)


def test_where_the_first_stage_leaves_a_gap_no_more_is_read_than_is_wanted() -> None:
    gains = np.zeros(100, np.float32)
    assert enough(falling(1), gains, 10) == 10
    assert enough(falling(1), gains, 1) == LEAST, "a device does four in the time of one"


def test_reading_goes_as_far_as_a_text_could_gain_what_most_of_those_read_did_not() -> None:
    gains = np.zeros(100, np.float32)
    gains[[0, 1, 2]] = 5
    assert onward(falling(1), gains[:10], 10) == 4, "it stands behind the tenth by less than five"
    assert enough(falling(1), gains, 10) == 14
    assert enough(falling(0.1), gains, 10) == 30, "fewer of those read have gained so much by then"


def test_one_that_gained_more_than_all_others_does_not_keep_reading_going() -> None:
    gains = np.zeros(100, np.float32)
    gains[0] = 1000
    assert enough(falling(1), gains, 20) == 20


def test_where_the_first_stage_counts_for_nothing_all_is_read_that_may_be_the_best() -> None:
    assert enough(np.zeros(50, np.float32), falling(1, 50), 10) == 50


def test_steps_are_as_large_as_half_of_the_answer_and_one_never_goes_past_the_last() -> None:
    flat, rising = np.zeros(33, np.float32), np.arange(33, dtype=np.float32)
    steps = [onward(flat, rising[:read], 10) for read in (0, 6, 10, 15, 30, 33)]
    assert steps == [10, 4, 5, 5, 3, 0]


marks = st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), max_size=120)


@given(marks, st.integers(1, 30))
def test_what_is_read_is_a_part_of_it_and_no_less_than_the_answer(texts: list[tuple[float, float]], top_k: int) -> None:
    first, gains = np.array(texts, np.float32).reshape(-1, 2).T
    assert min(top_k, len(texts)) <= enough(first, gains, top_k) <= len(texts)


@given(marks, st.integers(1, 20))
def test_nothing_is_lost_by_stopping_where_no_gain_exceeds_what_most_had(
    texts: list[tuple[float, float]], top_k: int
) -> None:
    first = np.sort(np.array(texts, np.float32).reshape(-1, 2)[:, 0])[::-1]
    final, read = first + 1, enough(first, np.ones(len(first), np.float32), top_k)
    assert np.array_equal(np.sort(final[:read])[::-1][:top_k], np.sort(final)[::-1][:top_k])
