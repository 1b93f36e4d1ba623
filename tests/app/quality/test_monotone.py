from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quality.monotone import EDGE, METHODS, Labelled, Method, Numbers, Points, fit, isotonic, log_loss, pool, shares
from app.stages.calibrate import MOST_SHARE, Standing, probabilities, standing
from app.types import Scale

blocks = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=12)
labels = st.lists(
    st.tuples(st.floats(-50, 50, width=32), st.booleans(), st.sampled_from([0.1, 0.5, 1.0])), min_size=1, max_size=60
)


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
def test_a_map_never_falls_and_never_says_impossible_or_certain(
    method: Method, data: list[tuple[float, bool, float]]
) -> None:
    scale = method(Points(*(np.array(column, float) for column in zip(*data, strict=True))))
    assert all(one < other for one, other in pairwise(scale.scores))
    assert all(one <= other for one, other in pairwise(scale.relevance))
    assert all(EDGE <= each <= 1 - EDGE for each in scale.relevance)
    assert (np.diff(read(scale, np.linspace(-60, 60, 200))) >= 0).all()


def test_steps_rise_from_their_first_score_to_their_last() -> None:
    scores = np.arange(20.0)
    relevant = np.array([0.0] * 12 + [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    found = read(isotonic(Points(scores, relevant, np.ones(20))), scores)
    assert (np.diff(found) > 0).all()


def test_five_relevant_ones_of_five_are_no_certainty() -> None:
    found = isotonic(Points(np.arange(10.0), np.array([0.0] * 5 + [1.0] * 5), np.ones(10))).relevance
    assert 0.02 < found[0] < 0.1
    assert 0.9 < found[-1] < 0.98


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_weight_of_three_is_three_documents(method: Method) -> None:
    draw = np.random.default_rng(0)
    scores, weights = draw.normal(0, 1, 60), draw.integers(1, 4, 60)
    relevant = (draw.random(60) < 1 / (1 + np.exp(-2 * scores))).astype(float)
    once = method(Points(scores, relevant, weights.astype(float)))
    often = method(Points(np.repeat(scores, weights), np.repeat(relevant, weights), np.ones(weights.sum())))
    seen = np.linspace(-1.5, 1.5, 50)
    assert read(once, seen) == pytest.approx(read(often, seen), abs=0.02)


def test_a_curve_that_is_logistic_is_found() -> None:
    found = fit(drawn(200, lambda scores: 1 / (1 + np.exp(2 - scores))), 0)
    assert found.method == "logistic"
    assert read(found.scale, np.array([0.0, 2.0, 4.0])) == pytest.approx([0.119, 0.5, 0.881], abs=0.04)


def test_a_curve_that_is_not_logistic_is_followed_in_steps() -> None:
    found = fit(drawn(400, lambda scores: np.where(scores < 0, 0.05, np.where(scores < 2, 0.5, 0.6))), 0)
    assert found.method == "isotonic"
    assert found.losses["isotonic"] < found.losses["logistic"]
    assert read(found.scale, np.array([-2.0, 1.0, 4.0])) == pytest.approx([0.05, 0.5, 0.6], abs=0.08)


def test_where_queries_have_levels_of_their_own_these_are_taken_off() -> None:
    draw = np.random.default_rng(0)
    queries = []
    for shift in draw.normal(0, 10, 200):
        relevant = (np.arange(20) == 0).astype(float)
        queries.append(labelled(shift + 4 * relevant + draw.normal(0, 1, 20), relevant))
    found = fit(queries, 0).scale
    assert found.background + found.rival == pytest.approx(1, abs=0.05)
    best = [float(probabilities(found, each.standing)[each.relevant > 0][0]) for each in queries]
    assert np.mean(best) > 0.7


def test_where_one_document_alone_can_be_relevant_rivals_count() -> None:
    assert shares(contested(300, 0))[1] > 0.3
    assert shares(drawn(300, lambda scores: 1 / (1 + np.exp(2 - scores))))[1] < 0.1


def test_scores_that_say_nothing_have_no_shares_taken_off() -> None:
    draw = np.random.default_rng(0)
    queries = [labelled(np.full(20, 5.0), (draw.random(20) < 0.25).astype(float)) for _ in range(50)]
    assert shares(queries) == (0, 0)
    assert read(fit(queries, 0).scale, np.array([5.0])) == pytest.approx(0.25, abs=0.05)


def test_scores_that_say_nothing_give_the_share_of_relevant_ones() -> None:
    scores = np.arange(100.0)
    for relevant in (scores % 4 == 0, scores < 25):
        for method in METHODS.values():
            found = read(method(Points(scores, relevant.astype(float), np.ones(100))), scores)
            assert found.mean() == pytest.approx(0.25, abs=0.05)


candidates = st.lists(st.tuples(st.floats(-40, 40, width=32), st.sampled_from("abcdef")), min_size=1, max_size=30)
share = st.floats(0, MOST_SHARE)


@settings(max_examples=300)
@given(candidates, share, share)
def test_relevance_has_the_order_of_the_scores(found: list[tuple[float, str]], background: float, rival: float) -> None:
    """By construction, whatever was learned, and whichever chunks are of one document."""
    found.sort(key=lambda each: -each[0])
    stands = standing(np.array([score for score, _ in found]), [document for _, document in found])
    scale = Scale((-60.0, -3.0, 0.0, 2.0, 60.0), (0.001, 0.1, 0.3, 0.3, 0.99), background, rival)
    assert (np.diff(probabilities(scale, stands)) <= 1e-12).all()


def test_the_firsts_rival_is_another_document_and_everybody_elses_is_the_first() -> None:
    stands = standing(np.array([3.0, 9.0, 8.0, 5.0]), ["b", "a", "a", "c"])
    assert stands.rivals.tolist() == [9, 5, 9, 9]
    assert stands.of([1, 3]).rivals.tolist() == [5, 9]
    assert standing(np.array([9.0, 8.0, 4.0]), ["a", "a", "a"]).rivals.tolist() == [4, 9, 9]
    assert standing(np.array([9.0]), ["a"]).rivals.tolist() == [9]


def test_the_level_is_the_mean_of_the_ten_best() -> None:
    assert standing(np.arange(30.0), [str(number) for number in range(30)]).level == 24.5
    assert standing(np.array([1.0, 2.0]), ["a", "b"]).level == 1.5


def test_log_loss_is_the_surprise() -> None:
    found = log_loss(np.array([0.5, 0.9, 0.9]), np.array([1.0, 1.0, 0.0]))
    assert found == pytest.approx([0.693, 0.105, 2.303], abs=1e-3)


def read(scale: Scale, scores: Numbers) -> Numbers:
    """What a map says of scores as they are."""
    return probabilities(scale, Standing(scores, 0.0, np.zeros(len(scores))))


def labelled(scores: Numbers, relevant: Numbers) -> Labelled:
    """One query's documents, each of a single chunk, in their order."""
    best = np.argsort(-scores)
    stands = standing(scores, [str(place) for place in range(len(scores))])
    return Labelled(stands.of(best.tolist()), relevant[best])


def drawn(amount: int, truth: Callable[[Numbers], Numbers]) -> list[Labelled]:
    """Queries whose candidates are relevant with a probability that is known, each by itself."""
    draw = np.random.default_rng(0)
    scores = [draw.normal(0, 3, 20) for _ in range(amount)]
    return [labelled(each, (draw.random(20) < truth(each)).astype(float)) for each in scores]


def contested(amount: int, seed: int) -> list[Labelled]:
    """Queries of which one candidate or none is relevant, with probabilities that are known: by a softmax over all of
    them and over there being none."""
    draw = np.random.default_rng(seed)
    queries = []
    for _ in range(amount):
        scores = draw.normal(0, 6, 20)
        odds = np.exp(np.append(scores, 8.0))
        queries.append(labelled(scores, (np.arange(20) == draw.choice(21, p=odds / odds.sum())).astype(float)))
    return queries
