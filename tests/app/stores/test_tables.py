"""Vectors in rows, whole and rounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.stores.tables import AT_ONCE, Rounded, Table, Whole, similarities

Vectors = NDArray[np.float32]
DIMENSIONS = 48


@pytest.fixture(params=[Whole, Rounded])
def kind(request: pytest.FixtureRequest) -> type[Table]:
    found: type[Table] = request.param
    return found


def drawn(rows: int, seed: int = 0, size: float = 1.0) -> Vectors:
    return (size * np.random.default_rng(seed).standard_normal((rows, DIMENSIONS))).astype(np.float32)


def holding(kind: type[Table], vectors: Vectors, room: int | None = None) -> Table:
    table = kind(room or len(vectors), DIMENSIONS)
    table.put(0, vectors)
    return table


@given(st.integers(0, 2**32 - 1), st.floats(1e-20, 1e20))
def test_a_rounded_number_is_off_by_no_more_than_it_says(seed: int, size: float) -> None:
    vectors = drawn(3, seed, size)
    off = np.abs(holding(Rounded, vectors)[np.arange(3)] - vectors).max(axis=1)
    assert (off <= Rounded.rounding * np.abs(vectors).max(axis=1)).all()


def test_a_vector_of_nothing_is_nothing(kind: type[Table]) -> None:
    table = holding(kind, np.zeros((2, DIMENSIONS), np.float32))
    assert not table[np.arange(2)].any()
    assert table.scan(2, drawn(1)[0]).tolist() == [0, 0]


@pytest.mark.parametrize("asked", [0, 1, 7, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
def test_few_and_all_are_compared_alike(kind: type[Table], asked: int) -> None:
    used, query = 3 * AT_ONCE + 5, drawn(1, seed=1)[0]
    table = holding(kind, drawn(used), room=2 * used)
    rows = np.random.default_rng(2).permutation(used)[:asked]
    expected = table[np.arange(used)] @ query
    assert similarities(table, used, rows, query) == pytest.approx(expected[rows], abs=1e-4)
    assert table.scan(used, query) == pytest.approx(expected, abs=1e-4)


def test_what_a_larger_table_takes_over_is_what_was_there(kind: type[Table]) -> None:
    small, large = holding(kind, drawn(5)), kind(9, DIMENSIONS)
    large.take_over(small, 5)
    large.put(5, drawn(4, seed=3))
    assert np.array_equal(large[np.arange(5)], small[np.arange(5)])
    assert len(large) == 9


def test_rounded_vectors_take_a_quarter() -> None:
    whole, rounded = (holding(kind, drawn(100)).memory(100) for kind in (Whole, Rounded))
    assert rounded == whole / 4 + 4 * 100
