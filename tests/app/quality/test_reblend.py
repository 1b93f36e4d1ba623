from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quality.reblend import Listed, fit_blend


def lists(amount: int, weights: tuple[float, float, float, float], seed: int = 0) -> list[Listed]:
    """Candidates of which one is relevant, the more probably the more it scores by these weights."""
    draw = np.random.default_rng(seed)
    return [_listed(draw, np.array(weights)) for _ in range(amount)]


def _listed(draw: np.random.Generator, weights: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Listed:
    scores = np.column_stack(
        [draw.normal(0, 3, 20), draw.uniform(0.2, 0.9, 20), draw.beta(1, 3, 20), draw.beta(5, 5, 20)]
    )
    chances = np.exp(scores @ weights)
    relevant = np.zeros(20, bool)
    relevant[draw.choice(20, p=chances / chances.sum())] = True
    return Listed(scores, relevant)


def test_known_weights_are_found() -> None:
    found = fit_blend(lists(800, (1, 8, 3, 6)))
    assert found.rerank == 1
    assert found.dense == pytest.approx(8, rel=0.15)
    assert found.lexical == pytest.approx(3, rel=0.3)
    assert found.late == pytest.approx(6, rel=0.2)


def test_what_misleads_weighs_nothing() -> None:
    found = fit_blend(lists(300, (-1, 8, 3, 6)))
    assert found.rerank == 0
    assert found.dense > found.lexical > 0


def test_the_reranker_can_be_left_out() -> None:
    found = fit_blend(lists(300, (1, 8, 3, 6)), rerank=False)
    assert found.rerank == 0
    assert found.dense > found.lexical > 0


def test_a_stage_that_was_not_asked_weighs_nothing() -> None:
    asked = [Listed(each.scores * [1, 1, 0, 1], each.relevant) for each in lists(300, (1, 8, 0, 6))]
    found = fit_blend(asked)
    assert found.lexical == 0
    assert found.dense == pytest.approx(8, rel=0.25)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 8), st.booleans())
def test_no_weight_is_negative_whatever_the_labels(seed: int, amount: int, candidates: int, same: bool) -> None:
    draw = np.random.default_rng(seed)
    rows = [np.zeros((candidates, 4)) if same else draw.normal(0, 5, (candidates, 4)) for _ in range(amount)]
    found = fit_blend([Listed(each, draw.random(candidates) < 0.4) for each in rows])
    weights = [found.rerank, found.dense, found.lexical, found.late]
    assert min(weights) >= 0
    assert np.isfinite(weights).all()


def test_labels_that_scores_part_without_a_fault_keep_weights_finite() -> None:
    scores = np.column_stack([np.arange(10.0), np.linspace(0, 1, 10), np.zeros(10), np.zeros(10)])
    found = fit_blend([Listed(scores, np.arange(10) == 9)] * 20)
    assert 0 < found.dense < 100
