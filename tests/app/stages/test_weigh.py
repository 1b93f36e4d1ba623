from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.stages.weigh import packed, unpacked
from models.types import SparseVector

MOST = 6

vectors = st.lists(st.dictionaries(st.integers(0, 2**24), st.floats(2**-14, 100, width=32), max_size=MOST), max_size=5)


@given(vectors)
def test_what_is_packed_for_the_batcher_comes_out_as_it_went_in(texts: list[dict[int, float]]) -> None:
    given = [
        SparseVector(np.array(sorted(each), np.int32), np.array([each[term] for term in sorted(each)], np.float32))
        for each in texts
    ]
    rows = packed(given, MOST)
    assert rows.shape == (len(texts), 2, MOST)
    for before, after in zip(given, unpacked(rows), strict=True):
        np.testing.assert_array_equal(before.terms, after.terms)
        np.testing.assert_array_equal(before.weights, after.weights)
        assert (after.terms.dtype, after.weights.dtype) == (before.terms.dtype, before.weights.dtype)
