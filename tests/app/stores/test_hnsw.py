"""What only the graph can get wrong: growing, deleting, adding beside searching, saving."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import monotonic

import hnswlib
import numpy as np
import pytest
from numpy.typing import NDArray

from app.stores import hnsw_file
from app.stores.hnsw import FIRST_CAPACITY, HnswIndex
from app.types import Candidates, Change, VectorIndex

DIMENSIONS = 32

Vectors = NDArray[np.float32]


def vectors(count: int, seed: int = 0, dimensions: int = DIMENSIONS) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, dimensions))
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def additions(block: Vectors, first: int = 1) -> list[Change]:
    """Chunks numbered on, each with its own number as sequence."""
    return [Change(number, number, vector) for number, vector in enumerate(block, first)]


def removals(chunks: range, after: int) -> list[Change]:
    return [Change(sequence, chunk, None) for sequence, chunk in enumerate(chunks, after + 1)]


def filled(count: int, *, m: int = 16, ef: int = 200, exact_below: int = 0, threads: int = 1) -> HnswIndex:
    index = HnswIndex(DIMENSIONS, m, 100, ef, exact_below, threads)
    index.apply(additions(vectors(count)))
    return index


def restored(path: Path, sequence: int, *, ef: int) -> HnswIndex:
    index = HnswIndex(DIMENSIONS, 16, 100, ef, 0)
    index.restore(path, sequence)
    return index


def recall(index: VectorIndex, k: int = 20, allowed: NDArray[np.int64] | None = None) -> float:
    hits = 0
    for query in vectors(30, seed=5):
        exact = index.search_exact(query, k, allowed).chunks.tolist()
        hits += len({*exact} & {*index.search(query, k, allowed).chunks.tolist()})
    return hits / (30 * k)


def same(one: Candidates, other: Candidates) -> bool:
    return one.chunks.tolist() == other.chunks.tolist() and np.allclose(one.scores, other.scores, atol=1e-6)


def test_it_is_a_vector_index() -> None:
    index: VectorIndex = HnswIndex(DIMENSIONS, 16, 100, 200, 0)
    assert index.sequence == 0


def test_it_grows_beyond_its_first_capacity() -> None:
    index = filled(3 * FIRST_CAPACITY)
    assert len(index) == 3 * FIRST_CAPACITY
    assert recall(index) > 0.97


def test_several_threads_build_as_good_a_graph() -> None:
    index = filled(3 * FIRST_CAPACITY, threads=4)
    assert len(index) == 3 * FIRST_CAPACITY
    assert recall(index) > 0.97


def test_it_grows_by_one_at_the_edge() -> None:
    index = filled(FIRST_CAPACITY)
    extra = vectors(2, seed=1)
    index.apply(additions(extra[:1], first=FIRST_CAPACITY + 1))
    assert index.search(extra[0], 1).chunks.tolist() == [FIRST_CAPACITY + 1]


def test_few_chunks_are_compared_exactly_and_many_by_the_graph() -> None:
    poor = {"m": 4, "ef": 10}
    assert recall(filled(4000, **poor, exact_below=0), k=5) < 0.9
    assert recall(filled(4000, **poor, exact_below=4000), k=5) == 1


def test_few_allowed_chunks_are_compared_exactly() -> None:
    allowed = np.arange(1, 4000, 40, dtype=np.int64)
    assert recall(filled(4000, m=4, ef=10, exact_below=100), 10, allowed) == 1


@pytest.mark.parametrize("every", [2, 5, 20, 100])
def test_a_filter_on_the_graph_fills_the_answer(every: int) -> None:
    index = filled(4000)
    allowed = np.arange(1, 4000, every, dtype=np.int64)
    assert recall(index, 20, allowed) > 0.97
    assert len(index.search(vectors(1, seed=3)[0], 40, allowed)) == 40


def test_a_filter_far_from_the_query_still_fills_the_answer() -> None:
    """The graph's neighbours are all forbidden: it looks wider, and in the end at all that is allowed."""
    index, query = filled(3000), vectors(1, seed=9)[0]
    far = np.sort(index.search_exact(query, 3000).chunks[-1500:])
    assert same(index.search(query, 30, far), index.search_exact(query, 30, far))


def test_it_stays_right_when_most_is_deleted() -> None:
    index = filled(3000)
    index.apply(removals(range(1, 2901), after=3000))
    assert (len(index), index.deleted) == (100, 2900)
    assert recall(index, 50) == 1


def test_deleted_counts_marks_until_they_are_compacted() -> None:
    index = filled(50)
    index.apply(removals(range(1, 11), after=50))
    index.apply(removals(range(1, 11), after=60))
    assert (len(index), index.deleted) == (40, 10)


def test_the_estimated_size_covers_what_is_written(tmp_path: Path) -> None:
    index = filled(2000)
    index.save(tmp_path / "index")
    assert index.nbytes > (tmp_path / "index").stat().st_size


def nested(count: int, seed: int = 0) -> Vectors:
    """Whose first numbers say the most, as those of encoders that were trained for it."""
    drawn = vectors(count, seed) * np.arange(1, DIMENSIONS + 1) ** -1.0
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_a_graph_of_short_vectors_proposes_and_all_numbers_decide() -> None:
    whole, short = (
        HnswIndex(DIMENSIONS, 16, 100, 200, 0, graph_dimensions=each) for each in (DIMENSIONS, DIMENSIONS // 2)
    )
    for index in (whole, short):
        index.apply(additions(nested(3000)))
    found = [(short.search_graph(query, 20), whole.search_exact(query, 20)) for query in nested(30, seed=5)]
    best = [near.chunks[0] == exact.chunks[0] for near, exact in found if near]
    assert sum(best) == len(found)
    missed = [len({*exact.chunks.tolist()} - {*near.chunks.tolist()}) for near, exact in found if near]
    assert sum(missed) < 0.02 * 20 * len(found)
    assert all(np.allclose(near.scores[0], exact.scores[0], atol=1e-6) for near, exact in found if near)
    assert short.nbytes == whole.nbytes - 3000 * 4 * (DIMENSIONS - DIMENSIONS // 2)


class Full(HnswIndex):
    """Memory runs out when the graph must grow."""

    full = True

    def _make_room(self, more: int) -> None:
        if self.full and len(self) + more > 20:
            raise MemoryError
        super()._make_room(more)


def test_a_set_of_changes_that_fails_half_way_is_not_seen_and_can_be_repeated(tmp_path: Path) -> None:
    index = Full(DIMENSIONS, 16, 100, 200, 0)
    index.apply(additions(vectors(10)))
    block = vectors(40, seed=2)
    changes = [*removals(range(1, 6), after=10), *additions(block, first=16)]
    with pytest.raises(MemoryError):
        index.apply(changes)
    assert sorted(index.search(block[0], 50).chunks.tolist()) == list(range(1, 11))
    index.save(tmp_path / "index")
    assert len(restored(tmp_path / "index", 10, ef=200)) == 10
    index.full = False
    index.apply(changes)
    assert len(index) == 45
    assert index.search(block[3], 1).chunks.tolist() == [19]
    assert recall(index, 45) == 1


def test_searches_come_in_between_while_much_is_added() -> None:
    index = HnswIndex(DIMENSIONS, 16, 200, 50, 0)
    index.apply(additions(vectors(2000)))
    with ThreadPoolExecutor(1) as threads:
        adding = threads.submit(index.apply, additions(vectors(4000, seed=1), first=2001))
        searches = 0
        while not adding.done():
            assert len(index.search(vectors(1)[0], 20)) == 20
            searches += 1
        adding.result()
    assert searches >= 20
    assert len(index) == 6000


def test_many_threads_search_while_chunks_come_and_go(tmp_path: Path) -> None:
    """Adding beside searching broke one query in five hundred of bare hnswlib."""
    pool, done = vectors(20_000), Event()
    index = HnswIndex(DIMENSIONS, 8, 50, 100, 500)
    index.apply(additions(pool[:2000]))

    def search(seed: int) -> int:
        rng, count = np.random.default_rng(seed), 0
        while not done.is_set():
            allowed = np.sort(rng.choice(20_000, 5000, replace=False)) if count % 3 == 2 else None
            query = pool[rng.integers(20_000)]
            found = index.search(query, 30, allowed)
            assert len(found) == 30
            assert len(set(found.chunks.tolist())) == 30
            assert (np.diff(found.scores) <= 0).all()
            np.testing.assert_allclose(found.scores, pool[found.chunks - 1] @ query, atol=1e-5)
            count += 1
        return count

    def change() -> None:
        stop, added, removed = monotonic() + 3, 2000, 0
        while monotonic() < stop and added < 19_900:
            new = [Change(added + removed + n, added + n, pool[added + n - 1]) for n in range(1, 65)]
            gone = [Change(added + removed + 64 + n, removed + n, None) for n in range(1, 33)]
            index.apply([*new, *gone])
            added, removed = added + 64, removed + 32
            if added % 1280 == 0:
                index.save(tmp_path / "index")
        assert len(index) == added - removed

    with ThreadPoolExecutor(8) as threads:
        searching = [threads.submit(search, seed) for seed in range(7)]
        try:
            change()
        finally:
            done.set()
        assert sum(counted.result() for counted in searching) > 100


def test_a_loaded_index_answers_as_the_saved_one(tmp_path: Path) -> None:
    """Marks survive, and so does the effort of searches, which hnswlib forgets."""
    index = filled(3000, m=6, ef=60)
    index.apply(removals(range(1, 500, 2), after=3000))
    assert index.save(tmp_path / "index") == 3250
    loaded = restored(tmp_path / "index", 3250, ef=60)
    assert (len(loaded), loaded.deleted, loaded.sequence) == (2750, 250, 3250)
    for query in vectors(20, seed=4):
        assert same(loaded.search(query, 10), index.search(query, 10))
        assert same(loaded.search_exact(query, 10), index.search_exact(query, 10))


def test_a_loaded_index_goes_on(tmp_path: Path) -> None:
    index, more = filled(FIRST_CAPACITY), vectors(500, seed=8)
    index.apply(removals(range(1, 101), after=FIRST_CAPACITY))
    sequence = index.save(tmp_path / "index")
    loaded = restored(tmp_path / "index", sequence, ef=200)
    loaded.apply(additions(more, first=5000))
    loaded.apply(removals(range(101, 201), after=6000))
    loaded.apply(removals(range(1, 50), after=7000))
    assert (len(loaded), loaded.deleted) == (FIRST_CAPACITY + 300, 200)
    assert recall(loaded) > 0.99


def test_an_empty_index_can_be_saved_and_loaded(tmp_path: Path) -> None:
    HnswIndex(DIMENSIONS, 16, 100, 200, 0).save(tmp_path / "index")
    loaded = restored(tmp_path / "index", 0, ef=200)
    loaded.apply(additions(vectors(5)))
    assert len(loaded.search(vectors(1)[0], 10)) == 5


def test_the_file_is_read_as_hnswlib_reads_it(tmp_path: Path) -> None:
    """Its layout is not documented, so every figure we take from it is compared with what the library gives back."""
    block, labels = vectors(300), np.random.default_rng(0).permutation(10_000)[:300]
    graph = hnswlib.Index("ip", DIMENSIONS)
    graph.init_index(400, M=12, ef_construction=77)
    graph.add_items(block, labels)
    for label in labels[:7].tolist():
        graph.mark_deleted(label)
    graph.save_index(str(tmp_path / "index"))
    file = hnsw_file.read(tmp_path / "index", DIMENSIONS)
    assert (file.m, file.ef_construction) == (12, 77)
    assert set(file.chunks.tolist()) == set(labels.tolist())
    assert set(file.chunks[~file.living].tolist()) == set(labels[:7].tolist())
    living = file.chunks[file.living]
    np.testing.assert_array_equal(file.vectors[file.living], graph.get_items(living))


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"index")
    filled(10).save(tmp_path / "index")
    (tmp_path / "cut").write_bytes((tmp_path / "index").read_bytes()[:500])
    with pytest.raises(ValueError, match="too short"):
        hnsw_file.read(tmp_path / "short", DIMENSIONS)
    with pytest.raises(ValueError, match="ends before"):
        hnsw_file.read(tmp_path / "cut", DIMENSIONS)
    with pytest.raises(ValueError, match="33 dimensions"):
        hnsw_file.read(tmp_path / "index", DIMENSIONS + 1)
