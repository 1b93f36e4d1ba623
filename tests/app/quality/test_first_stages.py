from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.quality import dense, fusion, lexical
from app.quality.lexical import LANGUAGES, NONE, Lexicon
from app.types import Candidates
from models.training.lexicon import Lexicon as TrainingLexicon

TEXTS = [
    "The cat sat on the mat and the cats slept.",
    "Dogs run home when the cat sits.",
    "A bird flew over the house.",
    "…",
]

words = st.lists(
    st.sampled_from(["the", "cat", "cats", "dog", "bird", "house", "zebra", "run", "over"]), max_size=6
).map(" ".join)


def ranked(chunks: list[int]) -> Candidates:
    return Candidates(np.array(chunks, np.int64), np.arange(len(chunks), 0, -1).astype(np.float32))


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 50))
def test_dense_search_is_exact_whatever_the_depth(seed: int, chunks: int, depth: int) -> None:
    draw = np.random.default_rng(seed)
    held, asked = (draw.standard_normal((rows, 8)).astype(np.float32) for rows in (chunks, 3))
    for found, query in zip(dense.search(asked, held, depth), asked, strict=True):
        scores = held @ query
        assert found.chunks.tolist() == np.argsort(-scores, kind="stable")[:depth].tolist()
        assert found.scores == pytest.approx(np.sort(scores)[::-1][:depth], abs=1e-5)


def test_cut_vectors_are_of_unit_length_and_no_longer_than_they_were() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    assert dense.cut(vectors, 3).shape == (5, 3)
    assert np.linalg.norm(dense.cut(vectors, 3), axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert dense.cut(vectors, 99) is vectors
    assert dense.cut(vectors, None) is vectors


def test_words_are_found_by_their_stems_and_stop_words_are_not() -> None:
    lexicon = Lexicon(TEXTS, "english")
    found = lexical.search(lexicon.scores(lexicon.terms("sitting cats")), 10)
    assert found.chunks.tolist() == [1, 0]
    assert not len(lexical.search(lexicon.scores(lexicon.terms("the and on")), 10))


def test_without_a_language_words_are_taken_as_they_are() -> None:
    lexicon = Lexicon(TEXTS, NONE)
    assert lexical.search(lexicon.scores(lexicon.terms("cats")), 10).chunks.tolist() == [0]
    assert len(lexical.search(lexicon.scores(lexicon.terms("the")), 10)) == 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_that_is_offered_is_there(language: str) -> None:
    lexicon = Lexicon(TEXTS, language)
    assert lexical.search(lexicon.scores(lexicon.terms("bird")), 1).chunks.tolist() == [2]


def test_texts_without_words_are_never_found() -> None:
    lexicon = Lexicon(["…", "!"], "english")
    assert not len(lexical.search(lexicon.scores(lexicon.terms("bird")), 10))


@given(words)
def test_the_lexical_feature_is_the_one_that_rerankers_are_trained_with(query: str) -> None:
    lexicon = Lexicon(TEXTS, "english")
    terms = lexicon.terms(query)
    shares = lexical.shares(terms, lexicon.scores(terms))
    assert shares == pytest.approx(TrainingLexicon(TEXTS).shares(query), abs=1e-6)
    assert ((shares >= 0) & (shares < 1)).all()


def test_a_word_that_no_chunk_has_makes_the_others_say_less() -> None:
    lexicon = Lexicon(TEXTS, "english")
    alone, beside = (lexicon.terms(query) for query in ("bird", "bird zebra"))
    assert lexical.shares(beside, lexicon.scores(beside))[2] < lexical.shares(alone, lexicon.scores(alone))[2]


def test_fusion_adds_reciprocal_ranks() -> None:
    found = fusion.fuse([ranked([4, 7, 1]), ranked([7, 9])])
    assert found.chunks.tolist() == [7, 4, 9, 1]
    assert found.scores == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])


def test_equals_are_fused_in_the_order_of_the_first_ranking() -> None:
    assert fusion.fuse([ranked([9, 8]), ranked([1, 2])]).chunks.tolist() == [9, 1, 8, 2]


def test_fusion_with_an_empty_ranking_keeps_the_other() -> None:
    assert fusion.fuse([ranked([3, 1, 2]), ranked([])]).chunks.tolist() == [3, 1, 2]
