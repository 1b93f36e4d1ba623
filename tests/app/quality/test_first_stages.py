from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.quality import dense


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 50))
def test_dense_search_is_exact_whatever_the_depth(seed: int, chunks: int, depth: int) -> None:
    draw = np.random.default_rng(seed)
    held, asked = (draw.standard_normal((rows, 8)).astype(np.float32) for rows in (chunks, 3))
    for found, query in zip(dense.search(asked, held, depth), asked, strict=True):
        scores = held @ query
        assert found.chunks.tolist() == np.argsort(-scores, kind="stable")[:depth].tolist()
        assert found.scores == pytest.approx(np.sort(scores)[::-1][:depth], abs=1e-5)
