from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stages.fuse import SAMPLE, found, fuse
from app.types import Candidates, Fusion
from models.types import Scores

RANKS = Fusion(by="ranks", dense=1, lexical=1)
EVEN = Fusion(dense=1, lexical=1)

rankings = st.lists(st.integers(1, 30), unique=True, max_size=12)
marks = st.lists(st.integers(0, 100), min_size=30, max_size=30)


def ranked(chunks: list[int]) -> Candidates:
    return Candidates(np.array(chunks, np.int64), np.arange(len(chunks), 0, -1).astype(np.float32))


def by_ranks(dense: list[int], lexical: list[int], fusion: Fusion = RANKS) -> Candidates:
    return fuse({"dense": ranked(dense), "lexical": ranked(lexical)}, {}, fusion)


def by_scores(dense: dict[int, float], lexical: dict[int, float], fusion: Fusion = EVEN) -> Candidates:
    """Each stage ranks what it was given by score, and knows the scores of what the other one found."""

    def ranking(scores: dict[int, float]) -> Candidates:
        return ranked(sorted(scores, key=lambda chunk: -scores[chunk]))

    both = {"dense": ranking(dense), "lexical": ranking(lexical)}
    chunks = found(both).tolist()
    known: dict[str, Scores] = {
        name: np.array([scores.get(chunk, 0) for chunk in chunks], np.float32)
        for name, scores in {"dense": dense, "lexical": lexical}.items()
    }
    return fuse(both, known, fusion)


def test_fusion_by_ranks_adds_reciprocal_ranks() -> None:
    fused = by_ranks([4, 7, 1], [7, 9])
    assert fused.chunks.tolist() == [7, 4, 9, 1]
    assert fused.scores == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])


def test_a_ranking_counts_by_its_weight() -> None:
    fused = by_ranks([4, 7], [9, 4], Fusion("ranks", dense=1, lexical=4, k=1))
    assert fused.chunks.tolist() == [9, 4, 7]
    assert fused.scores == pytest.approx([4 / 2, 1 / 2 + 4 / 3, 1 / 3])


def test_equals_are_fused_in_the_order_of_the_first_ranking() -> None:
    assert by_ranks([9, 8], [1, 2]).chunks.tolist() == [9, 1, 8, 2]


def test_fusion_by_scores_adds_standard_deviations_from_the_usual_score() -> None:
    fused = by_scores({1: 0.9, 2: 0.5, 3: 0.1}, {2: 0.6, 3: 0.3}, Fusion(dense=3, lexical=1))
    dense, lexical = np.array([0.9, 0.5, 0.1]), np.array([0.0, 0.6, 0.3])
    near, worded = (np.maximum((each - each.mean()) / each.std(), -1) for each in (dense, lexical))
    expected = 3 * near + worded
    assert fused.chunks.tolist() == [1, 2, 3]
    assert fused.scores == pytest.approx(expected, abs=1e-5)


def test_by_scores_a_clear_winner_counts_for_more_than_a_narrow_one() -> None:
    """By ranks the two would be equal, with what dense search found ahead."""
    close, clear = {1: 0.51, 2: 0.50, 3: 0.49, 4: 0.10}, {2: 0.9, 1: 0.1, 3: 0.1, 4: 0.1}
    assert by_ranks([1, 2], [2, 1]).chunks.tolist() == [1, 2]
    assert by_scores(close, clear).chunks.tolist()[0] == 2


def test_by_scores_it_does_not_matter_on_what_scale_a_stage_counts() -> None:
    dense, lexical = {1: 0.9, 2: 0.5, 3: 0.1}, {3: 0.6, 2: 0.2, 1: 0.1}
    compressed = {chunk: 0.7 + score / 10 for chunk, score in dense.items()}
    assert by_scores(compressed, lexical).chunks.tolist() == by_scores(dense, lexical).chunks.tolist()


def test_by_scores_the_one_text_with_a_rare_word_is_found_however_far_away_it_is() -> None:
    near = {chunk: 0.5 + chunk / 1000 for chunk in range(60)}
    assert by_scores(near, {99: 0.4}, Fusion()).chunks.tolist()[0] == 99


def test_a_stage_that_thinks_the_same_of_all_has_no_say() -> None:
    assert by_scores({3: 0.9, 1: 0.8, 2: 0.1}, {2: 0.4, 1: 0.4, 3: 0.4}).chunks.tolist() == [3, 1, 2]


@pytest.mark.parametrize("fusion", [RANKS, EVEN])
def test_fusion_with_an_empty_ranking_keeps_the_other(fusion: Fusion) -> None:
    scores = {"dense": np.array([0.9, 0.5, 0.2], np.float32), "lexical": np.zeros(3, np.float32)}
    assert fuse({"dense": ranked([3, 1, 2]), "lexical": ranked([])}, scores, fusion).chunks.tolist() == [3, 1, 2]
    nothing = {"dense": np.zeros(0, np.float32), "lexical": np.zeros(0, np.float32)}
    assert not len(fuse({"dense": ranked([]), "lexical": ranked([])}, nothing, fusion))


def test_the_order_does_not_hang_on_how_much_of_it_is_asked_for() -> None:
    draw = np.random.default_rng(0)
    dense, lexical = (dict(enumerate(draw.random(4 * SAMPLE).tolist())) for _ in range(2))

    def best(amount: int) -> dict[int, float]:
        both = {"dense": dense, "lexical": lexical}
        cut = {name: ranked(sorted(marks, key=lambda one: -marks[one])[:amount]) for name, marks in both.items()}
        chunks = found(cut).tolist()
        known = {name: np.array([marks[one] for one in chunks], np.float32) for name, marks in both.items()}
        fused = fuse(cut, known, EVEN)
        return dict(zip(fused.chunks.tolist(), fused.scores.tolist(), strict=True))

    short, long = best(SAMPLE), best(3 * SAMPLE)
    assert {chunk: long[chunk] for chunk in short} == pytest.approx(short, abs=1e-5)


@given(rankings, rankings, st.floats(0.1, 10), st.floats(0.1, 10), st.integers(1, 100))
def test_what_is_ahead_of_another_in_both_rankings_stays_ahead(
    one: list[int], other: list[int], first: float, second: float, k: int
) -> None:
    fused = by_ranks(one, other, Fusion("ranks", first, second, k)).chunks.tolist()
    assert sorted(fused) == sorted({*one, *other})
    both = [chunk for chunk in one if chunk in other]
    for ahead in both:
        for behind in both:
            if one.index(ahead) < one.index(behind) and other.index(ahead) < other.index(behind):
                assert fused.index(ahead) < fused.index(behind)


@given(marks, marks, st.floats(0.1, 10), st.floats(0.1, 10))
def test_what_scores_more_in_both_stages_scores_more(
    one: list[int], other: list[int], first: float, second: float
) -> None:
    dense, lexical = ({chunk: mark / 100 for chunk, mark in enumerate(marks)} for marks in (one, other))
    fused = by_scores(dense, lexical, Fusion(dense=first, lexical=second)).chunks.tolist()
    place = {chunk: rank for rank, chunk in enumerate(fused)}
    for ahead in range(30):
        for behind in range(30):
            if dense[ahead] > dense[behind] and lexical[ahead] > lexical[behind]:
                assert place[ahead] < place[behind]
