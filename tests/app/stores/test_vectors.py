"""Vectors as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stores.vectors import shortened

WHOLE = np.array([[3, 4, 12], [1, 0, 5]], np.float32)


def test_a_shortened_vector_has_unit_length_again() -> None:
    assert shortened(WHOLE, 2) == pytest.approx(np.array([[0.6, 0.8], [1, 0]]))


@pytest.mark.parametrize("dimensions", [3, 4, None])
def test_a_vector_that_is_no_longer_is_left_as_it_is(dimensions: int | None) -> None:
    assert shortened(WHOLE, dimensions) is WHOLE


def test_of_first_numbers_that_are_all_zero_no_direction_is_made() -> None:
    assert shortened(np.array([[0, 0, 1]], np.float32), 2).tolist() == [[0, 0]]


@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_a_vector_is_shortened_to_the_same_alone_and_among_others(dimensions: int, seed: int) -> None:
    block = np.random.default_rng(seed).standard_normal((9, 8)).astype(np.float32)
    alone = np.concatenate([shortened(row[None], dimensions) for row in block])
    np.testing.assert_allclose(alone, shortened(block, dimensions), rtol=0, atol=1e-6)
