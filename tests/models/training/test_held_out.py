"""What is kept out of training, and what it shares with the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from models.training.errors import TrainingError
from models.training.held_out import hold_out
from models.training.settings import Apart

Example = tuple[str, int]
examples = some.lists(some.tuples(some.sampled_from("abcdefghijklmnopqrstABCD"), some.integers(0, 30)), min_size=1)


def _query(example: Example) -> str:
    return example[0]


def _asked(found: list[Example]) -> set[str]:
    """The queries, whatever their case."""
    return {_query(each).casefold() for each in found}


def _answer(example: Example) -> int:
    return example[1]


@given(examples, some.integers(0, 20), some.integers(0, 5))
def test_neither_queries_nor_answers_are_on_both_sides(found: list[Example], count: int, seed: int) -> None:
    try:
        rest, held = hold_out(found, _query, _answer, count, "both", seed)
    except TrainingError:  # a story of its own, below
        return

    assert not _asked(rest) & _asked(held)
    assert not {*map(_answer, rest)} & {*map(_answer, held)}
    assert sorted([*rest, *held]) == sorted(found)
    assert len(_asked(held)) <= min(count, max(1, len(_asked(found)) // 10))


@given(examples, some.integers(1, 20), some.integers(0, 5))
def test_with_few_answers_to_many_queries_queries_alone_can_be_held_out(
    found: list[Example], count: int, seed: int
) -> None:
    rest, held = hold_out(found, _query, _answer, count, "queries", seed)

    assert not _asked(rest) & _asked(held)
    assert len(_asked(held)) == min(count, max(1, len(_asked(found)) // 10))


@given(examples, some.integers(0, 5))
def test_the_same_seed_holds_out_the_same(found: list[Example], seed: int) -> None:
    assert hold_out(found, _query, _answer, 9, "queries", seed) == hold_out(found, _query, _answer, 9, "queries", seed)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("both", ["Qu8", "Que9", "Qu20", "Que21", "24", "Q25"]), ("queries", ["6", "Qu14", "Quer16", "24", "30", "Qu38"])],
)
def test_where_no_query_comes_in_two_cases_the_same_are_held_out_as_ever(how: Apart, expected: list[str]) -> None:
    """Rounding, blends and cards of models that were trained long ago go by them."""
    found = [("Query"[: query % 6] + str(query), query // 2) for query in range(60)]

    assert [_query(each) for each in hold_out(found, _query, _answer, 9, how, 7)[1]] == expected


def test_of_many_small_islands_as_many_queries_are_held_out_as_were_asked_for() -> None:
    found = [(str(query), query // 2) for query in range(400)]

    rest, held = hold_out(found, _query, _answer, 30, "both", 7)

    assert (len(rest), len(held)) == (370, 30)


def test_where_one_answer_serves_all_queries_that_is_said() -> None:
    with pytest.raises(TrainingError, match="hang together"):
        hold_out([(str(query), 1) for query in range(50)], _query, _answer, 5, "both", 7)
