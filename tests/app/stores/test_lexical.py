"""What every lexical index must do, and that it says the same of a text as training does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.stores.lexical import FEW, TantivyIndex
from app.types import LexicalIndex, Wording
from models.training.lexicon import Lexicon

TEXTS = [
    "The cat sat on the mat and the cats slept.",
    "Dogs run home when the cat sits.",
    "A bird flew over the house.",
    "…",
]

WORDS = ["the", "cat", "cats", "dog", "bird", "house", "zebra", "run", "over", "mat"]
phrases = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


@pytest.fixture(params=["in memory", "in a folder"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LexicalIndex]:
    made = TantivyIndex("english", tmp_path / "index" if request.param == "in a folder" else None)
    yield made
    made.close()


def additions(texts: Sequence[str], first: int = 1) -> list[Wording]:
    return [Wording(number, number, text) for number, text in enumerate(texts, first)]


def test_an_empty_index_finds_nothing(index: LexicalIndex) -> None:
    assert len(index) == index.sequence == 0
    assert not len(index.search("cat", 10))
    assert not len(index.search("cat", 10, np.array([1, 2], np.int64)))
    assert index.shares("cat", np.array([1, 2], np.int64)).tolist() == [0, 0]


def test_words_are_found_by_their_stems_best_first(index: LexicalIndex) -> None:
    index.apply(additions(TEXTS))
    found = index.search("sitting cats", 10)
    assert found.chunks.tolist() == [2, 1]
    assert found.chunks.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert 1 > found.scores[0] > found.scores[1] > 0


def test_a_query_of_stop_words_alone_is_looked_for_as_it_is(index: LexicalIndex) -> None:
    index.apply(additions(["to be or not to be", "a rose is a rose"]))
    assert index.search("to be", 10).chunks.tolist() == [1]


def test_a_query_without_words_finds_nothing(index: LexicalIndex) -> None:
    index.apply(additions(TEXTS))
    assert not len(index.search("…", 10))


def test_what_is_not_a_query_language_is_taken_as_words(index: LexicalIndex) -> None:
    index.apply(additions(['title:"cat" AND -dog', "nothing of that"]))
    assert index.search('title:"cat" AND (dog* OR [a TO z]', 10).chunks.tolist() == [1]


def test_only_allowed_chunks_are_found(index: LexicalIndex) -> None:
    index.apply(additions(["cat"] * 30))
    allowed = np.array([3, 7, 29, 400], np.int64)
    assert index.search("cat", 10, allowed).chunks.tolist() == [3, 7, 29]


def test_many_allowed_chunks_are_sifted_and_few_are_named_with_the_same_result(index: LexicalIndex) -> None:
    index.apply(additions([f"cat {'mat ' * (number % 7)}" for number in range(3 * FEW)]))
    allowed = np.arange(2, 3 * FEW, 2, dtype=np.int64)
    many = index.search("cat mat", 50, allowed)
    few = index.search("cat mat", 50, allowed[np.isin(allowed, many.chunks)])
    assert len(many) == 50
    assert not (many.chunks % 2).any()
    np.testing.assert_allclose(many.scores, few.scores, rtol=1e-6)


def test_rare_allowed_chunks_are_found_however_far_down(index: LexicalIndex) -> None:
    texts = ["cat mat"] * (2 * FEW) + ["a cat among many other words of no use"] * (FEW + 1)
    index.apply(additions(texts))
    assert len(index.search("cat mat", 10, np.arange(2 * FEW + 1, len(texts) + 1, dtype=np.int64))) == 10


def test_a_chunk_that_is_gone_is_found_no_more(index: LexicalIndex) -> None:
    index.apply(additions(TEXTS))
    index.apply([Wording(5, 2, None), Wording(6, 99, None)])
    assert (len(index), index.sequence) == (3, 6)
    assert index.search("cat", 10).chunks.tolist() == [1]
    assert index.shares("cat", np.array([2, 1], np.int64))[0] == 0


def test_changes_that_are_seen_twice_change_nothing(index: LexicalIndex) -> None:
    changes = [*additions(TEXTS), Wording(5, 1, None)]
    index.apply(changes)
    before = index.search("cat", 10)
    index.apply(changes[1:])
    assert len(index) == 3
    assert index.search("cat", 10).scores == pytest.approx(before.scores)


def test_an_addition_that_is_undone_in_the_same_step_is_not_seen(index: LexicalIndex) -> None:
    index.apply([Wording(1, 1, "cat"), Wording(2, 1, None), Wording(3, 2, "dog")])
    assert (len(index), index.sequence) == (1, 3)


@pytest.mark.parametrize(
    "read", [lambda index: index.search("cat", 100), lambda index: index.chunks], ids=["search", "all"]
)
def test_who_reads_beside_writing_sees_all_of_a_change_or_nothing(
    index: LexicalIndex, read: Callable[[LexicalIndex], Sized]
) -> None:
    """Ten chunks come and go together: a reader never meets nine."""
    done, counts = Event(), set[int]()

    def go_on() -> None:
        while not done.is_set():
            counts.add(len(read(index)))

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(go_on) for _ in range(2)]
        try:
            for turn in range(15):
                chunks = range(10 * turn + 1, 10 * turn + 11)
                index.apply([Wording(20 * turn + n, chunk, "cat") for n, chunk in enumerate(chunks)])
                index.apply([Wording(20 * turn + 10 + n, chunk, None) for n, chunk in enumerate(chunks)])
        finally:
            done.set()
        for each in reading:
            each.result()
    assert counts <= {0, 10}


@given(phrases)
@settings(max_examples=60)
def test_a_share_is_the_one_that_rerankers_are_trained_with(query: str) -> None:
    index = TantivyIndex("english")
    index.apply(additions(TEXTS))
    shares = index.shares(query, np.arange(1, len(TEXTS) + 1))
    assert shares == pytest.approx(Lexicon(TEXTS, "english").shares(query), abs=1e-6)
    assert ((shares >= 0) & (shares < 1)).all()
    index.close()


@given(st.lists(phrases, min_size=1, max_size=20), phrases, st.data())
@settings(max_examples=40)
def test_search_and_shares_agree(texts: list[str], query: str, data: st.DataObject) -> None:
    index = TantivyIndex("english")
    index.apply(additions(texts))
    gone = data.draw(st.sets(st.integers(1, len(texts))))
    index.apply([Wording(100 + chunk, chunk, None) for chunk in gone])
    found = index.search(query, len(texts))
    assert index.shares(query, found.chunks) == pytest.approx(found.scores)
    assert not gone.intersection(found.chunks.tolist())
    assert (np.diff(found.scores) <= 1e-6).all()
    index.close()


def test_a_word_that_no_chunk_has_makes_the_others_say_less(index: LexicalIndex) -> None:
    index.apply(additions(TEXTS))
    chunk = np.array([3], np.int64)
    assert index.shares("bird zebra", chunk) < index.shares("bird", chunk)


def test_it_tells_which_words_a_text_has_of_the_query(index: LexicalIndex) -> None:
    assert index.matches("The quick foxes and zebras", "a quick brown fox") == ["quick", "fox"]


def test_texts_and_queries_may_spell_a_word_in_two_ways() -> None:
    made = TantivyIndex("german")
    made.apply(additions(["U\u0308ber\u00adschwem\u00admung am Rhein", "Ebbe"]))
    assert made.search("überschwemmung", 5).chunks.tolist() == [1]
    assert made.matches("überschwemmung", "U\u0308ber\u00adschwem\u00admung am Rhein") == ["uberschwemm"]


def test_each_language_has_its_own_stems() -> None:
    index = TantivyIndex("german")
    index.apply(additions(["Die Häuser am Fluss", "Ein Baum"]))
    assert index.search("das Haus", 5).chunks.tolist() == [1]
    index.close()
