"""What every index of sparse vectors must do, and that it says the same as adding up by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.stores.rows import sparse_bytes, sparse_vector
from app.stores.sparse import InvertedIndex
from app.types import ChunkIds, Expansion, SparseIndex
from models.types import SparseVector

Terms = Mapping[int, float]

WEIGHTS = [0.25, 0.5, 1.0, 1.5, 3.0]
"""Halves of halves, so that sums are exact in whatever order."""

some_terms = st.dictionaries(st.integers(0, 12), st.sampled_from(WEIGHTS), max_size=6)


@pytest.fixture(params=[3, 2**16], ids=["small segments", "large ones"])
def index(request: pytest.FixtureRequest) -> SparseIndex:
    return InvertedIndex(request.param)


def vector(terms: Terms) -> SparseVector:
    rising = sorted(terms)
    return SparseVector(np.array(rising, np.int32), np.array([terms[each] for each in rising], np.float32))


def additions(texts: Sequence[Terms], first: int = 1) -> list[Expansion]:
    return [Expansion(number, number, vector(terms)) for number, terms in enumerate(texts, first)]


def chunks(*numbers: int) -> ChunkIds:
    return np.array(numbers, np.int64)


TEXTS: Sequence[Terms] = [{1: 1.0, 2: 0.5}, {2: 2.0, 70_000: 1.0}, {1: 0.5}, {}]


def test_an_empty_index_finds_nothing(index: SparseIndex) -> None:
    assert len(index) == index.sequence == 0
    assert not len(index.search(vector({1: 1.0}), 10))
    assert not len(index.search(vector({1: 1.0}), 10, chunks(1, 2)))
    assert index.scores(vector({1: 1.0}), chunks(1, 2)).tolist() == [0, 0]


def test_what_shares_the_heaviest_terms_comes_first(index: SparseIndex) -> None:
    index.apply(additions(TEXTS))
    found = index.search(vector({1: 2.0, 2: 1.0}), 10)
    assert found.chunks.tolist() == [1, 2, 3]
    assert found.scores.tolist() == [2.5, 2.0, 1.0]
    assert found.chunks.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert index.search(vector({1: 2.0, 2: 1.0}), 2).chunks.tolist() == [1, 2]
    assert not len(index.search(vector({1: 2.0}), 0))


def test_what_shares_no_term_is_not_found(index: SparseIndex) -> None:
    index.apply(additions(TEXTS))
    assert index.search(vector({70_000: 1.0}), 10).chunks.tolist() == [2]
    assert not len(index.search(vector({3: 1.0}), 10))
    assert not len(index.search(vector({}), 10))


def test_equals_come_in_the_order_of_their_numbers(index: SparseIndex) -> None:
    index.apply([Expansion(1, chunk, vector({1: 1.0})) for chunk in (9, 4, 7, 2, 11, 3)])
    assert index.search(vector({1: 1.0}), 4).chunks.tolist() == [2, 3, 4, 7]


def test_only_allowed_chunks_are_found(index: SparseIndex) -> None:
    index.apply(additions([{1: 1.0}] * 200))
    assert index.search(vector({1: 1.0}), 10, chunks(3, 7, 129, 400)).chunks.tolist() == [3, 7, 129]
    assert index.search(vector({1: 1.0}), 3, np.arange(2, 200, 2)).chunks.tolist() == [2, 4, 6]
    assert not len(index.search(vector({1: 1.0}), 10, chunks()))


def test_scores_are_those_of_search_and_0_where_search_finds_nothing(index: SparseIndex) -> None:
    index.apply(additions(TEXTS))
    assert index.scores(vector({1: 2.0, 2: 1.0}), chunks(4, 99, 2, 1)).tolist() == [0, 0, 2.0, 2.5]


def test_a_chunk_that_is_gone_is_found_no_more(index: SparseIndex) -> None:
    index.apply(additions(TEXTS))
    index.apply([Expansion(5, 2, None), Expansion(6, 99, None)])
    assert (len(index), index.sequence) == (3, 6)
    assert index.search(vector({2: 1.0}), 10).chunks.tolist() == [1]
    assert index.scores(vector({2: 1.0}), chunks(2, 1)).tolist() == [0, 0.5]


def test_changes_that_are_seen_twice_change_nothing(index: SparseIndex) -> None:
    changes = [*additions(TEXTS), Expansion(5, 1, None)]
    index.apply(changes)
    index.apply(changes[1:])
    index.apply([Expansion(5, 2, vector({2: 2.0, 70_000: 1.0}))])
    assert (len(index), index.sequence) == (3, 5)
    assert index.search(vector({2: 1.0}), 10).scores.tolist() == [2.0]


def test_an_addition_that_is_undone_in_the_same_step_is_not_seen(index: SparseIndex) -> None:
    index.apply([Expansion(1, 1, vector({1: 1.0})), Expansion(2, 1, None), Expansion(3, 2, vector({2: 1.0}))])
    assert (len(index), index.sequence) == (1, 3)


def test_memory_is_given_back_when_much_is_deleted(index: SparseIndex) -> None:
    index.apply(additions([dict.fromkeys(range(50), 1.0)] * 100))
    before = index.nbytes
    index.apply([Expansion(101, chunk, None) for chunk in range(1, 91)])
    assert index.nbytes < before / 4
    assert len(index.search(vector({1: 1.0}), 100)) == 10


def test_many_small_steps_end_in_few_segments_of_limited_size() -> None:
    index = InvertedIndex(1024)
    for chunk in range(1, 4001):
        index.apply([Expansion(chunk, chunk, vector({chunk % 7: 1.0}))])
    sizes = [part.count for part in index._living.parts]
    assert sum(sizes) == 4000
    assert max(sizes) <= 1024
    assert len(sizes) <= 4000 / 512 + 10


def test_a_stored_vector_scores_as_the_one_it_was_stored_from() -> None:
    given = SparseVector(np.array([3, 30_521], np.int32), np.array([1.2345678, 0.001], np.float32))
    stored = sparse_vector(sparse_bytes(given))
    assert len(sparse_bytes(given)) == 12
    assert stored.terms.tolist() == [3, 30_521]
    fresh, replayed = InvertedIndex(), InvertedIndex()
    fresh.apply([Expansion(1, 1, given)])
    replayed.apply([Expansion(1, 1, stored)])
    assert fresh.scores(given, chunks(1)) == replayed.scores(given, chunks(1)) == pytest.approx(1.5241, rel=1e-3)


def test_a_search_beside_writing_sees_all_of_a_change_or_nothing() -> None:
    """Ten chunks come and go together, and segments are merged meanwhile: a search never meets nine."""
    index, done, counts = InvertedIndex(64), Event(), set[int]()
    index.apply([Expansion(0, chunk, vector({2: 1.0})) for chunk in range(1000, 1100)])

    def search() -> None:
        while not done.is_set():
            counts.add(len(index.search(vector({1: 1.0}), 100)))
            counts.add(int((index.scores(vector({2: 1.0}), np.arange(1000, 1100)) > 0).sum()) - 100)

    with ThreadPoolExecutor(2) as threads:
        searching = [threads.submit(search) for _ in range(2)]
        for turn in range(60):
            numbers = range(10 * turn + 1, 10 * turn + 11)
            index.apply([Expansion(20 * turn + n, chunk, vector({1: 1.0})) for n, chunk in enumerate(numbers)])
            index.apply([Expansion(20 * turn + 10 + n, chunk, None) for n, chunk in enumerate(numbers)])
        done.set()
        for each in searching:
            each.result()
    assert counts <= {0, 10}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_it_says_what_adding_up_by_hand_says(data: st.DataObject) -> None:
    """Steps that add and remove, in any order of numbers and over many merges, against a dictionary."""
    index = InvertedIndex(data.draw(st.sampled_from([2, 5, 2**16])))
    held: dict[int, Terms] = {}
    unused, sequence = set(range(60)), 0
    for _ in range(data.draw(st.integers(1, 8))):
        new = data.draw(st.lists(st.sampled_from(sorted(unused)), unique=True, max_size=8)) if unused else []
        gone = data.draw(st.sets(st.sampled_from(sorted({*held, *new})))) if held or new else set()
        terms = {chunk: data.draw(some_terms) for chunk in new}
        changes = [(chunk, vector(terms[chunk])) for chunk in new] + [(chunk, None) for chunk in sorted(gone)]
        index.apply([Expansion(sequence + n, *change) for n, change in enumerate(changes, 1)])
        held = {chunk: each for chunk, each in (held | terms).items() if chunk not in gone}
        unused -= set(new)
        sequence += len(changes)
        check(index, held, data.draw(some_terms), data.draw(st.integers(1, 10)), data.draw(st.sets(st.integers(0, 59))))
    assert index.sequence == sequence


def check(index: SparseIndex, held: Mapping[int, Terms], query: Terms, k: int, allowed: set[int]) -> None:
    by_hand = {
        chunk: sum(weight * terms.get(term, 0.0) for term, weight in query.items()) for chunk, terms in held.items()
    }
    assert len(index) == len(held)
    every = sorted((-score, chunk) for chunk, score in by_hand.items() if score)
    for among in (None, allowed):
        expected = [each for each in every if among is None or each[1] in among][:k]
        found = index.search(vector(query), k, None if among is None else chunks(*sorted(among)))
        assert [
            (-score, chunk) for chunk, score in zip(found.chunks.tolist(), found.scores.tolist(), strict=True)
        ] == expected
    asked = chunks(*range(60))
    assert index.scores(vector(query), asked).tolist() == [by_hand.get(chunk, 0.0) for chunk in range(60)]
