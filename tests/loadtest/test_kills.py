"""The kill test notices what it looks for: half a request, a torn hit, another ranking than SQLite's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loadtest.kills import SETTINGS, check_tokens
from loadtest.ledger import BrokenPromise, Ledger, check_hits, telling, text_of
from loadtest.truth import Truth
from models.catalog import open_sparse
from models.fake import FakeEncoder

VECTORS = np.eye(3, dtype=np.float32)
QUERY = np.array([0.1, 0.9, 0.5], np.float32)
TEXTS = ["salt water", "water", ""]
ENCODER = FakeEncoder(late=True)
TOKENS: list[bytes | None] = [
    made.tokens.tobytes() for made in ENCODER.encode_whole(ENCODER.tokenize(TEXTS, "document"))
]
TRUTH = Truth({}, np.array([10, 11, 12]), VECTORS, TEXTS, TOKENS)


def hit(chunk: int, score: float) -> dict[str, Any]:
    return {"id": str(chunk), "document_id": "d", "stages": {"dense": {"score": score}}}


def test_a_request_that_is_there_whole_or_not_at_all_is_no_fault() -> None:
    ledger = Ledger("a", held={"a1": 1}, pending={"a1": None, "a2": None})
    ledger.settle({"a1": 1, "a2": 1})
    assert ledger.held == {"a1": 1}
    ledger.pending = {"a1": 2, "a3": 2}
    ledger.settle({"a1": 2, "a3": 2})
    assert ledger.held == {"a1": 2, "a3": 2}


def test_half_a_request_is_noticed() -> None:
    with pytest.raises(BrokenPromise, match="half"):
        Ledger("a", pending={"a1": 2, "a2": 2}).settle({"a1": 2})


def test_a_deletion_by_half_is_noticed() -> None:
    with pytest.raises(BrokenPromise, match="half"):
        Ledger("a", held={"a1": 1, "a2": 1}, pending={"a1": None, "a2": None}).settle({"a2": 1})


def test_a_hit_of_another_version_than_it_says_is_noticed() -> None:
    torn = {"document_id": "a1", "metadata": {"version": 2}, "text": text_of("a1", 1), "start": 0, "end": 30}
    with pytest.raises(BrokenPromise, match="torn"):
        check_hits([torn])


def test_the_ranking_of_sqlite_is_no_deviation() -> None:
    assert TRUTH.deviation(QUERY, 2, [hit(11, 0.9), hit(12, 0.5)]) is None


@pytest.mark.parametrize(
    "found",
    [
        [hit(11, 0.9)],
        [hit(12, 0.5), hit(11, 0.9)],
        [hit(11, 0.9), hit(10, 0.1)],
        [hit(11, 0.9), hit(99, 0.5)],
        [hit(11, 0.8), hit(12, 0.5)],
    ],
    ids=["one is missing", "another order", "a worse one", "a stranger", "another score"],
)
def test_any_other_ranking_is_a_deviation(found: list[dict[str, Any]]) -> None:
    assert TRUTH.deviation(QUERY, 2, found)


def test_tokens_that_are_missing_or_another_text_s_are_noticed() -> None:
    check_tokens(TRUTH)
    for wrong in ([None, *TOKENS[1:]], [TOKENS[1], *TOKENS[1:]]):
        with pytest.raises(BrokenPromise, match="1 chunks"):
            check_tokens(replace(TRUTH, tokens=wrong))


@pytest.mark.parametrize(
    "others",
    [{"c59x1": 60, "c59x2": 65}, {"b55x7": 55, "a10x1": 100}],
    ids=["its neighbours", "longer ones, as once came first"],
)
def test_a_document_s_telling_word_finds_no_other_by_its_sparse_terms(others: dict[str, int]) -> None:
    encoder = open_sparse(str(SETTINGS["SPARSE"]))
    texts = [text_of(document, version) for document, version in others.items()]
    (asked,) = encoder.encode(encoder.tokenize([telling("c59x4", 62)], "query"), "query")
    (told,) = encoder.encode(encoder.tokenize([text_of("c59x4", 62)], "document"), "document")
    found = encoder.encode(encoder.tokenize(texts, "document"), "document")
    assert np.isin(asked.terms, told.terms).all()
    assert not any(np.isin(asked.terms, other.terms).any() for other in found)
