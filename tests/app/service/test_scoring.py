"""What becomes of a reranker's scores, and to which lengths vectors may be cut."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.service.scoring import Ranking, is_length, logits, probabilities
from models.fake import FakeEncoder
from models.types import Unit

UNITS: tuple[Unit, ...] = get_args(Unit)
LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)


@pytest.mark.parametrize("unit", UNITS)
@given(scores=LOGITS)
def test_probabilities_lie_between_0_and_1_and_keep_the_order(unit: Unit, scores: list[float]) -> None:
    own = np.array(scores, np.float32)
    if unit == "probability":
        own = probabilities(own, "logit").astype(np.float32)
    made = probabilities(own, unit)
    assert ((made >= 0) & (made <= 1)).all()
    assert (np.diff(made[np.argsort(own, kind="stable")]) >= 0).all()


def test_sums_of_similarities_stay_apart_however_large_they_are() -> None:
    made = probabilities(np.array([20, 20.01, 31.99, 32, -3], np.float32), "similarity")
    assert len(set(made)) == 5
    assert made[-1] < 0.5 < made[0] < made[1] < made[2] < made[3] < 1


@given(scores=st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=20))
def test_logits_are_had_back_from_probabilities(scores: list[float]) -> None:
    own = np.array(scores, np.float32)
    shown = probabilities(own, "logit").astype(np.float32)
    assert logits(shown, "probability") == pytest.approx(own, abs=0.02, rel=0.1)


def test_a_probability_of_1_has_a_logit_that_is_a_number() -> None:
    made = logits(np.array([0, 1], np.float32), "probability")
    assert np.isfinite(made).all()
    assert made[0] < -10 < 10 < made[1]


@pytest.mark.parametrize("unit", ["logit", "similarity"])
def test_what_has_no_activation_is_shown_raw_as_it_is(unit: Unit) -> None:
    own = np.array([-3, 0, 40], np.float32)
    assert logits(own, unit).tolist() == [-3, 0, 40]


def test_equal_texts_stay_in_their_order() -> None:
    assert Ranking(np.array([1, 3, 1, 3], np.float32), [], 0).order == [1, 3, 0, 2]


def named(name: str, dimensions: int) -> FakeEncoder:
    encoder = FakeEncoder(dimensions)
    encoder.name = name
    return encoder


@pytest.mark.parametrize(
    ("encoder", "allowed", "refused"),
    [
        (named("embedded", 384), [64, 128, 256, 384], [32, 100, 383, 512]),
        (named("nomic-ai/nomic-embed-text-v1.5", 768), [64, 128, 256, 512, 768], [32, 384, 1024]),
        (named("Qwen/Qwen3-Embedding-0.6B", 1024), [32, 33, 500, 1024], [31, 1025]),
        (named("BAAI/bge-small-en-v1.5", 384), [384], [64, 128, 383]),
        (named("./my-own", 384), [384], [64, 385]),
    ],
    ids=lambda each: each.name if isinstance(each, FakeEncoder) else "",
)
def test_vectors_are_cut_to_lengths_that_an_encoder_was_trained_for(
    encoder: FakeEncoder, allowed: list[int], refused: list[int]
) -> None:
    assert [length for length in allowed if not is_length(encoder, length)] == []
    assert [length for length in refused if is_length(encoder, length)] == []
