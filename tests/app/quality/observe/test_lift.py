"""What reranking made of the first stage's order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.quality.observe.lift import Change, LiftWatch, change
from app.types import Hit, Seen, StageScore
from app.witness import BEST, Sighting

RANKS = list(range(1, 21))


def hit(chunk: int, rank: int) -> Hit:
    stages = {"dense": StageScore(1 / rank, rank), "rerank": StageScore(1 / (chunk + 1), chunk + 1)}
    return Hit(chunk, f"d{chunk}", "", "", 0, 0, {}, 1 / (chunk + 1), stages, Seen(1, 1))


def lifted(ranks: Sequence[int]) -> Change:
    """Of an answer whose hits had these ranks in the first stage."""
    return change("dense", [hit(chunk, rank) for chunk, rank in enumerate(ranks)])


def test_an_order_that_stays_is_unchanged() -> None:
    found = lifted(RANKS)
    assert (found.overlap, found.unchanged) == (1.0, True)
    assert found.correlation == pytest.approx(1.0)


def test_what_changes_below_the_tenth_changes_nothing() -> None:
    assert lifted(RANKS[:10] + RANKS[:9:-1]).unchanged


def test_all_new_answers_have_nothing_in_common_with_the_first_stage() -> None:
    assert lifted(RANKS[10:] + RANKS[:10]) == Change(0.0, 0.0, unchanged=False)


def test_half_of_the_answers_kept_is_an_overlap_of_half() -> None:
    assert lifted(RANKS[:5] + RANKS[10:15] + RANKS[5:10] + RANKS[15:]).overlap == 0.5


def test_a_change_at_the_top_weighs_more_than_one_at_the_end() -> None:
    top, end = lifted([2, 1, *RANKS[2:]]), lifted([*RANKS[:8], 10, 9, *RANKS[10:]])
    assert top.overlap == end.overlap == 1.0
    assert top.correlation < end.correlation < 1.0
    assert not top.unchanged
    assert not end.unchanged


def test_where_tokens_are_compared_that_order_is_the_first_stage_s() -> None:
    ranked = [hit(chunk, 20 - chunk) for chunk in range(20)]
    for each in ranked:
        each.stages["late"] = StageScore(0.5, each.chunk + 1)
    assert change("dense", ranked).unchanged


def sighting(reranked: int, *, late: bool = False, candidates: int = 20) -> Sighting:
    hits = [hit(chunk, rank) for chunk, rank in enumerate(RANKS[:candidates])]
    return Sighting("docs", 1, "dense", hits, 10, reranked, late, 3, None, None)


def test_what_counts_had_more_than_ten_to_choose_from_and_time_enough() -> None:
    watch = LiftWatch()
    watch.add(sighting(BEST, candidates=BEST))
    watch.add(sighting(0))
    watch.add(sighting(15, late=True))
    assert watch.report() is None
    watch.add(sighting(5))
    watch.add(sighting(20))
    assert watch.report() is not None


@given(st.permutations(RANKS))
def test_likeness_lies_between_nothing_and_one(ranks: list[int]) -> None:
    found = lifted(ranks)
    assert 0 <= found.correlation <= 1 + 1e-9
    assert found.overlap == len(set(ranks[:BEST]) & set(RANKS[:BEST])) / BEST
