"""What every vector index must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.stores.hnsw import HnswIndex
from app.types import Candidates, Change, VectorIndex
from tests.app.stores.exact_index import ExactIndex

DIMENSIONS = 16

Vectors = NDArray[np.float32]
Make = Callable[[], VectorIndex]


def by_graph() -> VectorIndex:
    return HnswIndex(DIMENSIONS, m=8, ef_construction=100, ef=200, exact_below=0)


def as_configured() -> VectorIndex:
    return HnswIndex(DIMENSIONS, m=8, ef_construction=100, ef=50, exact_below=100)


def by_several_threads() -> VectorIndex:
    return HnswIndex(DIMENSIONS, m=8, ef_construction=100, ef=200, exact_below=0, threads=3)


def by_short_vectors() -> VectorIndex:
    return HnswIndex(DIMENSIONS, m=8, ef_construction=100, ef=200, exact_below=0, graph_dimensions=DIMENSIONS // 2)


class WithTruth(HnswIndex):
    """Keeps less than whole vectors, which are elsewhere."""

    def __init__(self, graph_dimensions: int) -> None:
        self.whole: dict[int, Vectors] = {}
        super().__init__(
            DIMENSIONS, 8, 100, 200, 0, graph_dimensions=graph_dimensions, truth=self.look_up, rounded=True
        )

    def apply(self, changes: Sequence[Change]) -> None:
        self.whole.update({each.chunk: each.vector for each in changes if each.vector is not None} | self.whole)
        super().apply(changes)

    def look_up(self, chunks: NDArray[np.int64]) -> tuple[NDArray[np.int64], Vectors]:
        there = [chunk for chunk in chunks.tolist() if chunk in self.whole]
        return np.array(there, np.int64), np.array([self.whole[chunk] for chunk in there]).reshape(-1, DIMENSIONS)


def by_rounded_vectors() -> WithTruth:
    return WithTruth(DIMENSIONS)


def by_short_and_rounded_vectors() -> WithTruth:
    return WithTruth(DIMENSIONS // 2)


def exactly() -> VectorIndex:
    return ExactIndex(DIMENSIONS)


WAYS = [
    by_graph,
    as_configured,
    by_several_threads,
    by_short_vectors,
    by_rounded_vectors,
    by_short_and_rounded_vectors,
    exactly,
]


@pytest.fixture(params=WAYS)
def make(request: pytest.FixtureRequest) -> Make:
    maker: Make = request.param
    return maker


@pytest.fixture
def index(make: Make) -> VectorIndex:
    return make()


def vectors(count: int, seed: int = 0) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS))
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def additions(chunks: Sequence[int], after: int = 0, seed: int = 0) -> list[Change]:
    """One addition per chunk, each chunk having a vector of its own."""
    pool = vectors(max([*chunks, 0]) + 1, seed)
    return [Change(sequence, chunk, pool[chunk]) for sequence, chunk in enumerate(chunks, after + 1)]


def removals(chunks: Sequence[int], after: int) -> list[Change]:
    return [Change(sequence, chunk, None) for sequence, chunk in enumerate(chunks, after + 1)]


def agree(one: Candidates, other: Candidates) -> None:
    assert one.chunks.tolist() == other.chunks.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_an_empty_index_finds_nothing(index: VectorIndex) -> None:
    assert len(index) == 0
    assert len(index.search(vectors(1)[0], 10)) == 0
    assert len(index.search_exact(vectors(1)[0], 10, np.array([1, 2], np.int64))) == 0


def test_answers_are_chunks_and_cosines_best_first(index: VectorIndex) -> None:
    index.apply(additions(range(1, 301)))
    found = index.search(vectors(301)[7], 50)
    assert found.chunks.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.chunks[0] == 7
    assert found.scores[0] == pytest.approx(1, abs=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    assert len(found) == 50


def test_equal_vectors_come_in_the_order_of_their_chunks(index: VectorIndex) -> None:
    same = vectors(1)[0]
    index.apply([Change(n, chunk, same) for n, chunk in enumerate([9, 3, 7, 5], 1)])
    assert index.search(same, 10).chunks.tolist() == [3, 5, 7, 9]


@pytest.mark.parametrize("k", [-1, 0, 1, 19, 20, 21, 10**9])
def test_asking_for_more_than_there_is_gives_all(index: VectorIndex, k: int) -> None:
    index.apply(additions(range(1, 21)))
    assert len(index.search(vectors(1)[0], k)) == max(0, min(k, 20))
    assert len(index.search_exact(vectors(1)[0], k)) == max(0, min(k, 20))


def test_more_than_ef_can_be_asked_for(index: VectorIndex) -> None:
    index.apply(additions(range(1, 1001)))
    found = index.search(vectors(1)[0], 600)
    assert len(set(found.chunks.tolist()) & set(index.search_exact(vectors(1)[0], 600).chunks.tolist())) > 590


def test_removed_chunks_are_not_found_and_all_others_are(index: VectorIndex) -> None:
    index.apply(additions(range(1, 201)))
    index.apply(removals(range(1, 191), after=200))
    assert len(index) == 10
    assert sorted(index.search(vectors(1)[0], 50).chunks.tolist()) == list(range(191, 201))


def test_all_can_be_removed_and_others_added(index: VectorIndex) -> None:
    index.apply(additions(range(1, 51)))
    index.apply(removals(range(1, 51), after=50))
    assert len(index.search(vectors(1)[0], 5)) == 0
    index.apply(additions(range(51, 61), after=100))
    assert sorted(index.search(vectors(1)[0], 50).chunks.tolist()) == list(range(51, 61))


def test_removing_twice_or_what_never_was_is_passed_over(index: VectorIndex) -> None:
    index.apply(additions([1, 2]))
    index.apply(removals([1, 1, 77], after=2))
    index.apply(removals([1, 78], after=5))
    assert index.search(vectors(1)[0], 5).chunks.tolist() == [2]
    assert index.sequence == 7


def test_the_log_can_be_replayed_from_any_point(index: VectorIndex) -> None:
    log = additions(range(1, 41)) + removals(range(5, 15), after=40) + additions(range(41, 60), after=50)
    index.apply(log)
    before = index.search(vectors(1)[0], 60)
    for start in (0, 20, 45, 60):
        index.apply(log[start:])
    agree(index.search(vectors(1)[0], 60), before)
    assert (len(index), index.sequence) == (49, 69)


def test_adding_a_living_chunk_again_is_passed_over(index: VectorIndex) -> None:
    index.apply(additions([1, 2, 3]))
    index.apply([Change(9, 2, vectors(5, seed=3)[4])])
    assert index.search(vectors(4)[2], 1).chunks.tolist() == [2]
    assert len(index) == 3


def test_a_chunk_that_comes_and_goes_in_one_set_is_not_there(index: VectorIndex) -> None:
    index.apply([*additions([1, 2]), Change(3, 1, None)])
    assert index.search(vectors(1)[0], 5).chunks.tolist() == [2]


def test_a_rebuild_may_come_in_sets_that_bear_the_same_number(index: VectorIndex) -> None:
    pool = vectors(30)
    for start in (0, 10, 20):
        index.apply([Change(500, chunk, pool[chunk]) for chunk in range(start, start + 10)])
    assert (len(index), index.sequence) == (30, 500)


def test_chunks_need_not_come_in_order(index: VectorIndex) -> None:
    index.apply(additions([30, 2, 17, 5]))
    index.apply(additions([4, 40, 1], after=4))
    assert sorted(index.search(vectors(1)[0], 9).chunks.tolist()) == [1, 2, 4, 5, 17, 30, 40]
    assert index.search(vectors(41)[4], 1, np.array([4, 5], np.int64)).chunks.tolist() == [4]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_changes_nothing(index: VectorIndex, broken: float) -> None:
    index.apply(additions([1]))
    bad = vectors(1)[0].copy()
    bad[3] = broken
    with pytest.raises(ValueError, match="NaN or infinity"):
        index.apply([*additions([2], after=1), Change(3, 3, bad)])
    with pytest.raises(ValueError, match="NaN or infinity"):
        index.search(bad, 1)
    assert (len(index), index.sequence) == (1, 1)


def test_a_vector_of_other_dimensions_changes_nothing(index: VectorIndex) -> None:
    index.apply(additions([1]))
    short = vectors(1)[0][:-1]
    with pytest.raises(ValueError, match="dimensions"):
        index.apply([*additions([2], after=1), Change(3, 3, short)])
    with pytest.raises(ValueError, match="dimensions"):
        index.search(short, 1)
    assert (len(index), index.sequence) == (1, 1)


def test_only_allowed_chunks_are_found(index: VectorIndex) -> None:
    index.apply(additions(range(1, 501)))
    allowed = np.arange(3, 500, 7, dtype=np.int64)
    agree(index.search(vectors(1)[0], 20, allowed), index.search_exact(vectors(1)[0], 20, allowed))
    assert set(index.search(vectors(1)[0], 500, allowed).chunks.tolist()) == set(allowed.tolist())


def test_unknown_and_removed_chunks_may_be_allowed(index: VectorIndex) -> None:
    index.apply(additions(range(1, 31)))
    index.apply(removals([4], after=30))
    allowed = np.array([2, 4, 6, 1000, 2000], np.int64)
    assert sorted(index.search(vectors(1)[0], 9, allowed).chunks.tolist()) == [2, 6]
    assert len(index.search(vectors(1)[0], 9, np.array([1000], np.int64))) == 0
    assert len(index.search(vectors(1)[0], 9, np.empty(0, np.int64))) == 0


@pytest.mark.parametrize("make_rounded", [by_rounded_vectors, by_short_and_rounded_vectors])
@pytest.mark.parametrize("k", [1, 10, 100, 101])
def test_nearer_chunks_that_the_truth_does_not_have_yet_keep_no_others_from_being_found(
    make_rounded: Callable[[], WithTruth], k: int
) -> None:
    index, query, published = make_rounded(), vectors(1, seed=3)[0], vectors(100)
    index.apply([Change(chunk, chunk, vector) for chunk, vector in enumerate(published, 1)])
    index.apply([Change(100, chunk, query) for chunk in range(201, 265)])
    for chunk in range(201, 265):
        del index.whole[chunk]
    nearest = np.argsort(-(published @ query))[:k] + 1
    assert index.search_exact(query, k).chunks.tolist() == nearest.tolist()
    every_third = np.arange(3, 265, 3, dtype=np.int64)
    among = [chunk for chunk in np.argsort(-(published @ query)) + 1 if chunk % 3 == 0]
    assert index.search_exact(query, k, every_third).chunks.tolist() == among[:k]


def test_sizes_are_told(index: VectorIndex) -> None:
    index.apply(additions(range(1, 101)))
    assert (index.dimensions, len(index)) == (DIMENSIONS, 100)
    assert index.nbytes >= 100 * DIMENSIONS * 4


def test_an_index_saves_itself_and_says_what_it_holds(index: VectorIndex, tmp_path: Path) -> None:
    index.apply(additions(range(1, 101)))
    assert index.save(tmp_path / "index") == 100
    assert (tmp_path / "index").stat().st_size > 0
    with pytest.raises(OSError, match="no such folder"):
        index.save(tmp_path / "no such folder" / "index")


@st.composite
def logs(draw: st.DrawFn) -> list[list[Change]]:
    """Sets of changes as the log gives them: numbers rise, and no chunk comes back."""
    pool, fresh, sequence = vectors(200), iter(draw(st.permutations(range(200)))), 0
    sets: list[list[Change]] = []
    known = [next(fresh)]
    for size in draw(st.lists(st.integers(0, 25), min_size=1, max_size=6)):
        changes = []
        for _ in range(size):
            sequence += 1
            if draw(st.integers(0, 2)):
                known.append(next(fresh))
                changes.append(Change(sequence, known[-1], pool[known[-1]]))
            else:
                changes.append(Change(sequence, draw(st.sampled_from(known)), None))
        sets.append(changes)
    return sets


@settings(max_examples=60, deadline=None)
@given(
    maker=st.sampled_from([by_graph, as_configured]),
    sets=logs(),
    k=st.integers(1, 40),
    allowed=st.none() | st.sets(st.integers(0, 220)),
    seed=st.integers(1, 1000),
)
def test_graph_and_exact_search_give_the_same(
    maker: Make, sets: list[list[Change]], k: int, allowed: set[int] | None, seed: int
) -> None:
    index, reference = maker(), ExactIndex(DIMENSIONS)
    among = None if allowed is None else np.array(sorted(allowed), np.int64)
    query = vectors(1, seed)[0]
    for changes in sets:
        index.apply(changes)
        reference.apply(changes)
        agree(index.search(query, k, among), reference.search(query, k, among))
        agree(index.search_exact(query, k, among), reference.search(query, k, among))
        assert (len(index), index.sequence) == (len(reference), reference.sequence)


def versions(size: int, rounds: int) -> Iterator[list[Change]]:
    """A document of so many chunks, replaced again and again: all its chunks lie close to the first axis."""
    sequence = 0
    for number in range(rounds):
        base = np.eye(DIMENSIONS, dtype=np.float32)[0] + 0.05 * vectors(size, seed=number)
        unit = (base / np.linalg.norm(base, axis=1, keepdims=True)).astype(np.float32)
        old = removals(range((number - 1) * size, number * size), sequence) if number else []
        new = [Change(sequence + len(old) + n, number * size + n - 1, unit[n - 1]) for n in range(1, size + 1)]
        sequence += len(old) + len(new)
        yield [*old, *new]


def test_searches_see_all_of_a_set_of_changes_or_none(make: Make) -> None:
    """A replaced document is there once: never half of it, never both versions, never neither."""
    index, size, done = make(), 40, Event()
    rounds = list(versions(size, rounds=60))
    index.apply([Change(0, 10_000 + n, vector) for n, vector in enumerate(vectors(500, seed=99))])
    index.apply(rounds[0])
    query = np.eye(DIMENSIONS, dtype=np.float32)[0]

    def look(exact: bool) -> int:
        looks = 0
        while not done.is_set() or not looks:
            found = (index.search_exact if exact else index.search)(query, size)
            assert len({chunk // size for chunk in found.chunks.tolist()}) == 1
            assert len(found) == size
            assert (found.scores > 0.9).all()
            looks += 1
        return looks

    with ThreadPoolExecutor(4) as threads:
        looking = [threads.submit(look, exact) for exact in (False, False, False, True)]
        for changes in rounds[1:]:
            index.apply(changes)
        done.set()
        assert all(looks.result() for looks in looking)
