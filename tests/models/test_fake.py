from __future__ import annotations

import time

import numpy as np
import pytest

from models.fake import FakeEncoder, FakeReranker, FakeSparseEncoder
from models.types import Blend, Blends, ModelError


def test_texts_that_share_more_words_are_nearer() -> None:
    encoder = FakeEncoder()
    query = encoder.encode(encoder.tokenize(["Green river bank"], "query"))
    texts = ["the river bank is green.", "the bank sets interest", "vectors and graphs"]
    similarities = (encoder.encode(encoder.tokenize(texts, "document")) @ query.T).ravel()
    assert similarities[0] > similarities[1] > similarities[2]


def test_the_reranker_prefers_more_of_the_words_then_their_order() -> None:
    reranker = FakeReranker()
    scores = reranker.score(
        reranker.tokenize("green river bank", ["green river bank", "bank river green", "bank", "no"])
    )
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len(set(scores.tolist())) == 4
    assert scores[0] == pytest.approx(1)
    assert scores[3] == 0


def test_the_tokenizer_counts_the_words_that_the_model_sees() -> None:
    encoder = FakeEncoder()
    text = "Well, the bank (in Köln) pays 3.5%!"
    (tokens,) = encoder.tokenize([text], "document")
    assert len(encoder.tokenizer.encode(text).ids) == tokens.total - 1


def test_it_can_be_told_to_be_short_slow_and_broken_and_keeps_a_record() -> None:
    encoder = FakeEncoder(8, max_tokens=4, delay=0.02, fail_on="poison")
    tokens = encoder.tokenize(["one two three four", "Poison here"], "document")
    assert [(len(one), one.total) for one in tokens] == [(4, 5), (3, 3)]
    started = time.perf_counter()
    assert encoder.encode(tokens[:1]).shape == (1, 8)
    assert time.perf_counter() - started >= 0.02
    with pytest.raises(ModelError, match="poison"):
        encoder.encode(tokens)
    assert encoder.calls == [1, 2]


def test_the_reranker_takes_the_same_orders() -> None:
    reranker = FakeReranker(max_tokens=6, fail_on="poison", blends=Blends(dense=Blend(0.5, 2.0)))
    (tokens,) = reranker.tokenize("a b c d e", ["one two"])
    assert (len(tokens), tokens.total) == (6, 9)
    assert reranker.blends.dense == Blend(0.5, 2.0)
    with pytest.raises(ModelError, match="poison"):
        reranker.score(reranker.tokenize("poison", ["one"]))
    assert reranker.calls == [1]


def test_fakes_of_another_size_have_another_fingerprint() -> None:
    prints = [FakeEncoder(8).fingerprint, FakeEncoder(16).fingerprint, FakeEncoder(8, max_tokens=9).fingerprint]
    assert len(set(prints)) == 3
    assert FakeEncoder(8).fingerprint == FakeEncoder(8).fingerprint


def test_vectors_are_the_same_in_every_process() -> None:
    encoder = FakeEncoder(4)
    (vector,) = encoder.encode(encoder.tokenize(["bank"], "query"))
    np.testing.assert_allclose(vector, encoder.encode(encoder.tokenize(["BANK"], "document"))[0])


def test_the_sparse_encoder_foresees_first_letters_unless_queries_are_looked_up() -> None:
    reading, looking = FakeSparseEncoder(), FakeSparseEncoder(reads_queries=False)
    for encoder, terms in ((reading, 2), (looking, 1)):
        (query,) = encoder.encode(encoder.tokenize(["signatures"], "query"), "query")
        (document,) = encoder.encode(encoder.tokenize(["signatures"], "document"), "document")
        assert (len(query), len(document)) == (terms, 2)
    twice, once = reading.encode(reading.tokenize(["bank bank", "bank"], "query"), "query")
    assert once.weights.sum() < twice.weights.sum() < 2 * once.weights.sum()


def test_the_sparse_encoder_takes_the_same_orders() -> None:
    encoder = FakeSparseEncoder(max_tokens=4, fail_on="poison")
    (tokens,) = encoder.tokenize(["one two three four"], "document")
    assert (len(tokens), tokens.total) == (4, 5)
    with pytest.raises(ModelError, match="poison"):
        encoder.encode(encoder.tokenize(["poison"], "query"), "query")
    assert encoder.calls == [1]
