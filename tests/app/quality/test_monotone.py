from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quality.monotone import EDGE, METHODS, Labelled, Method, fit, isotonic, log_loss, pool
from app.stages.calibrate import level, probabilities

blocks = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=12)
labels = st.lists(st.tuples(st.floats(-50, 50, width=32), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=100)
@given(blocks)
def test_pooling_gives_the_nearest_rising_sequence(given_blocks: list[tuple[float, int]]) -> None:
    """Against its definition: of all stretches that begin at or before a place the best of the worst mean."""
    values, weights = (np.array(column, float) for column in zip(*given_blocks, strict=True))
    starts = np.cumsum([0, *pool(values, weights)])
    pooled = [np.average(values[a:b], weights=weights[a:b]) for a, b in pairwise(starts.tolist()) for _ in range(b - a)]
    for place, found in enumerate(pooled):
        worst = [
            min(np.average(values[a:b], weights=weights[a:b]) for b in range(place + 1, len(values) + 1))
            for a in range(place + 1)
        ]
        assert found == pytest.approx(max(worst), abs=1e-9)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@settings(max_examples=100)
@given(data=labels)
def test_a_map_never_falls_and_never_says_impossible_or_certain(method: Method, data: list[tuple[float, bool]]) -> None:
    scores, relevant = (np.array(column, float) for column in zip(*data, strict=True))
    scale = method(scores, relevant)
    assert all(one < other for one, other in pairwise(scale.scores))
    assert all(one <= other for one, other in pairwise(scale.relevance))
    assert all(EDGE <= each <= 1 - EDGE for each in scale.relevance)
    found = probabilities(scale, np.linspace(-60, 60, 200), 0.0)
    assert (np.diff(found) >= 0).all()


def test_steps_rise_from_their_first_score_to_their_last() -> None:
    scores = np.arange(20.0)
    found = probabilities(
        isotonic(scores, np.array([0.0] * 12 + [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])), scores, 0.0
    )
    assert (np.diff(found) > 0).all()


def test_five_relevant_ones_of_five_are_no_certainty() -> None:
    found = isotonic(np.arange(10.0), np.array([0.0] * 5 + [1.0] * 5)).relevance
    assert 0.02 < found[0] < 0.1
    assert 0.9 < found[-1] < 0.98


def test_a_curve_that_is_logistic_is_found() -> None:
    queries = drawn(200, lambda scores: 1 / (1 + np.exp(2 - scores)))
    found = fit(queries, 0)
    assert found.method == "logistic"
    assert probabilities(found.scale, np.array([0.0, 2.0, 4.0]), 0.0) == pytest.approx([0.119, 0.5, 0.881], abs=0.03)


def test_a_curve_that_is_not_logistic_is_followed_in_steps() -> None:
    found = fit(drawn(200, lambda scores: np.where(scores < 0, 0.05, np.where(scores < 2, 0.5, 0.6))), 0)
    assert found.method == "isotonic"
    assert found.losses["isotonic, background 0"] < found.losses["logistic, background 0"]
    assert probabilities(found.scale, np.array([-2.0, 1.0, 4.0]), 0.0) == pytest.approx([0.05, 0.5, 0.6], abs=0.06)


def test_where_queries_have_levels_of_their_own_these_are_taken_off() -> None:
    draw = np.random.default_rng(0)
    queries = []
    for shift in draw.normal(0, 10, 200):
        relevant = (np.arange(20) == 0).astype(float)
        scores = shift + 4 * relevant + draw.normal(0, 1, 20)
        queries.append(Labelled(scores, relevant, level(scores)))
    found = fit(queries, 0)
    assert found.scale.background == 1
    best = [float(probabilities(found.scale, each.scores, each.level)[0]) for each in queries]
    assert np.mean(best) > 0.7


def test_scores_that_say_nothing_give_the_share_of_relevant_ones() -> None:
    scores = np.arange(100.0)
    for relevant in (scores % 4 == 0, scores < 25):
        for method in METHODS.values():
            found = probabilities(method(scores, relevant.astype(float)), scores, 0.0)
            assert found.mean() == pytest.approx(0.25, abs=0.05)


def test_log_loss_is_the_surprise() -> None:
    found = log_loss(np.array([0.5, 0.9, 0.9]), np.array([1.0, 1.0, 0.0]))
    assert found == pytest.approx([0.693, 0.105, 2.303], abs=1e-3)


def drawn(amount: int, truth: object) -> list[Labelled]:
    """Queries whose candidates are relevant with a probability that is known."""
    draw = np.random.default_rng(0)
    scores = [draw.normal(0, 3, 20) for _ in range(amount)]
    assert callable(truth)
    return [Labelled(each, (draw.random(20) < truth(each)).astype(float)) for each in scores]
