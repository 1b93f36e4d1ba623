from __future__ import annotations

import numpy as np
import pytest

from app.stages.refresh import DAY, Recency, refreshed

NOW = 20_000 * DAY
RECENCY = Recency(weight=0.5, half_life_days=30)
SCORES = np.array([3, 1, 1], np.float32)
"""Two apart: what is of this moment gains one."""


def test_what_is_new_gains_and_half_as_much_after_each_half_life() -> None:
    assert refreshed(SCORES, [None, NOW, NOW - 30 * DAY], NOW, RECENCY).tolist() == [3, 2, 1.5]
    assert refreshed(SCORES, [NOW, NOW - 60 * DAY, None], NOW, RECENCY).tolist() == [4, 1.25, 1]


@pytest.mark.parametrize("days", [1, 300, 10**6])
def test_what_is_dated_ahead_counts_as_of_this_moment(days: int) -> None:
    assert refreshed(SCORES, [None, NOW + days * DAY, NOW], NOW, RECENCY).tolist() == [3, 2, 2]
