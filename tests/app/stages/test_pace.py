from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.stages.pace import LEAST, SHARE, enough, stride, top, wave

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


def test_reading_stops_when_half_of_the_top_brings_nothing_new() -> None:
    falling = np.arange(100, 0, -1, dtype=np.float32)
    assert enough(falling, 10) == 15
    late = falling.copy()
    late[12] = 1000
    assert enough(late, 10) == 20
    assert top(late, 3) == {12, 0, 1}


@given(st.lists(st.integers(0, 50), max_size=120), st.integers(1, 30))
def test_what_is_read_is_a_part_of_it_and_more_than_the_top(marks: list[int], top_k: int) -> None:
    final = np.array(marks, np.float32)
    read = enough(final, top_k)
    assert read <= len(marks)
    assert read == len(marks) or (read > top_k and read % stride(top_k) == 0)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.integers(1, 20))
def test_a_query_whose_first_stage_was_right_loses_nothing_by_stopping(marks: list[float], top_k: int) -> None:
    final = np.sort(np.array(marks, np.float32))[::-1]
    assert top(final[: enough(final, top_k)], top_k) == top(final, top_k)
