"""What shapes an answer: distinct, diverse, grouped, expanded, fitted, highlighted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stages.diversify import ALIKE, distinct, diverse
from app.stages.expand import Stretch, merged
from app.stages.fit import fitting
from app.stages.group import grouped
from app.stages.highlight import sentences

seeds = st.integers(0, 10_000)


def vectors(seed: int, amount: int) -> np.typing.NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((amount, 6)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


@given(seeds, st.lists(st.integers(0, 7), min_size=1, max_size=20))
def test_of_what_says_the_same_the_best_stays(seed: int, texts: list[int]) -> None:
    held = vectors(seed, 8)[texts]
    kept = distinct(held)
    assert [texts[place] for place in kept][: len(set(texts))] == list(dict.fromkeys(texts[place] for place in kept))
    for place in range(len(texts)):
        likeness = held[[each for each in kept if each <= place]] @ held[place]
        assert place in kept or likeness.max() >= ALIKE - 1e-5


@given(seeds, st.integers(1, 15))
def test_without_diversity_the_order_is_that_of_the_scores(seed: int, amount: int) -> None:
    scores = np.random.default_rng(seed).permutation(amount).astype(np.float32)
    assert diverse(scores, vectors(seed, amount), 0.0) == np.argsort(-scores).tolist()


@given(seeds, st.integers(1, 15), st.floats(0, 1))
def test_diversity_loses_nothing_and_leaves_the_best_at_the_top(seed: int, amount: int, diversity: float) -> None:
    scores = np.random.default_rng(seed).permutation(amount).astype(np.float32)
    order = diverse(scores, vectors(seed, amount), diversity)
    assert sorted(order) == list(range(amount))
    assert diversity == 1 or order[0] == int(np.argmax(scores))


def test_what_repeats_the_best_comes_after_what_is_new() -> None:
    held = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert diverse(np.array([3, 2.9, 2], np.float32), held, 0.5) == [0, 2, 1]


def test_hits_of_one_document_stand_together_where_its_best_one_is() -> None:
    documents = ["a", "b", "a", "c", "b", "a"]
    assert grouped(documents, 2, 2) == [0, 2, 1, 4]
    assert grouped(documents, 9, 1) == [0, 1, 3]
    assert grouped([], 3, 3) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_stretches_that_meet_become_one_and_keep_all_of_their_hits(drawn: list[tuple[str, int, int]]) -> None:
    found = merged([Stretch(name, start, start + size, [place]) for place, (name, start, size) in enumerate(drawn)])
    assert sorted(place for each in found for place in each.places) == list(range(len(drawn)))
    assert [each.places[0] for each in found] == sorted(each.places[0] for each in found)
    for each in found:
        assert each.places == sorted(each.places)
        own = [drawn[place] for place in each.places]
        assert (each.start, each.end) == (min(start for _, start, _ in own), max(start + n for _, start, n in own))
        for other in found:
            assert other is each or other.document != each.document or other.end < each.start or each.end < other.start


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 200))
def test_what_fits_is_taken_in_order_and_nothing_more_would_fit(sizes: list[int], room: int) -> None:
    kept = fitting(sizes, room)
    assert kept == sorted(kept)
    left = room - sum(sizes[place] for place in kept)
    assert left >= 0
    for place, size in enumerate(sizes):
        before = room - sum(sizes[each] for each in kept if each < place)
        assert place in kept or size > before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "stop." Then left.', ['He said "stop."', "Then left."]),
        ("a line\nanother line\n\n* * *\nthe last", ["a line", "another line", "the last"]),
        ("Version 2.5 is out. See 3.1.", ["Version 2.5 is out.", "See 3.1."]),
        ("\u7b2c\u4e00\u53e5\u3002\u7b2c\u4e8c\u53e5\u3002", ["\u7b2c\u4e00\u53e5\u3002", "\u7b2c\u4e8c\u53e5\u3002"]),
        ("   ", []),
    ],
)
def test_sentences_and_lines_are_told_apart(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@given(st.text(max_size=300))
def test_sentences_cover_every_word_in_order(text: str) -> None:
    spans = sentences(text)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(place in covered for place, letter in enumerate(text) if letter.isalnum())
