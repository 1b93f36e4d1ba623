"""Rerankers in whole numbers of 8 bits: nearly the same, and only where that can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.catalog import open_encoder, open_reranker
from models.types import ModelError, ModelOptions, Reranker
from tests.models import tiny

EXACT = ModelOptions(precision="float32", runtime="openvino")
SHORT = replace(EXACT, precision="int8")
QUERY = "how long can a filter be used?"
TEXTS = (
    "The filter can be used for six months; replace it when the light turns red.",
    "Filters come in three sizes.",
    "",
    "Rivers carry salt into the sea. " * 40,
)


@pytest.fixture(scope="module")
def short() -> Reranker:
    return open_reranker("embedded", SHORT)


def test_scores_are_nearly_those_of_full_weights_and_in_their_order(short: Reranker) -> None:
    exact = open_reranker("embedded", EXACT)
    pairs = exact.tokenize(QUERY, TEXTS)
    full, rounded = exact.score(pairs), short.score(pairs)
    assert 0 < np.abs(rounded - full).max() < 0.1 * np.abs(full).max()
    assert np.argsort(rounded).tolist() == np.argsort(full).tolist()


def test_a_text_has_the_same_score_whatever_is_beside_it(short: Reranker) -> None:
    pairs = short.tokenize(QUERY, TEXTS)
    alone = np.concatenate([short.score([pair]) for pair in pairs])
    np.testing.assert_allclose(short.score(pairs), alone, atol=0.02)


def test_vectors_are_not_rounded() -> None:
    usual, asked = (open_encoder("embedded", replace(EXACT, precision=each)) for each in ("auto", "int8"))
    batch = usual.tokenize(TEXTS, "document")
    np.testing.assert_array_equal(asked.encode(batch), usual.encode(batch))
    assert asked.fingerprint == usual.fingerprint


@pytest.mark.parametrize("options", [replace(SHORT, runtime="torch"), replace(SHORT, runtime="auto", device="meta")])
def test_torch_does_not_pretend_to_it(options: ModelOptions) -> None:
    with pytest.raises(ModelError, match="let the precision be `auto`"):
        open_reranker("embedded", options)


def test_neither_does_late_interaction(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tiny.save_late(tmp_path_factory.mktemp("late"))
    with pytest.raises(ModelError, match="int8"):
        open_reranker(str(folder), replace(SHORT, runtime="auto"))
