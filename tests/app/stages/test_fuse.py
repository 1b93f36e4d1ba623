from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stages.fuse import fuse
from app.types import Candidates

rankings = st.lists(st.integers(1, 30), unique=True, max_size=12)


def ranked(chunks: list[int]) -> Candidates:
    return Candidates(np.array(chunks, np.int64), np.arange(len(chunks), 0, -1).astype(np.float32))


def test_fusion_adds_reciprocal_ranks() -> None:
    found = fuse([ranked([4, 7, 1]), ranked([7, 9])], [1, 1], 60)
    assert found.chunks.tolist() == [7, 4, 9, 1]
    assert found.scores == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])


def test_a_ranking_counts_by_its_weight() -> None:
    found = fuse([ranked([4, 7]), ranked([9, 4])], [1, 4], 1)
    assert found.chunks.tolist() == [9, 4, 7]
    assert found.scores == pytest.approx([4 / 2, 1 / 2 + 4 / 3, 1 / 3])


def test_equals_are_fused_in_the_order_of_the_first_ranking() -> None:
    assert fuse([ranked([9, 8]), ranked([1, 2])], [1, 1], 60).chunks.tolist() == [9, 1, 8, 2]


def test_fusion_with_an_empty_ranking_keeps_the_other() -> None:
    assert fuse([ranked([3, 1, 2]), ranked([])], [1, 1], 60).chunks.tolist() == [3, 1, 2]


@given(rankings, rankings, st.floats(0.1, 10), st.floats(0.1, 10), st.integers(1, 100))
def test_what_is_ahead_of_another_in_both_rankings_stays_ahead(
    one: list[int], other: list[int], first: float, second: float, k: int
) -> None:
    fused = fuse([ranked(one), ranked(other)], [first, second], k).chunks.tolist()
    assert sorted(fused) == sorted({*one, *other})
    both = [chunk for chunk in one if chunk in other]
    for ahead in both:
        for behind in both:
            if one.index(ahead) < one.index(behind) and other.index(ahead) < other.index(behind):
                assert fused.index(ahead) < fused.index(behind)
