"""That an encoder's token vectors are the same in every runtime, whatever else is in a batch, and how they compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

from models.catalog import open_encoder
from models.late_head import nearness, read_late, rounded
from models.packed_runtime import PackedEncoder
from models.training.late import write_late
from models.types import Blend, Blends, LateHead, ModelError, ModelOptions, TokenQuery, TokenVectors
from tests.models import tiny
from tests.models.test_packed import PACKABLE, of_lengths, recorded_with

TORCH = ModelOptions(device="cpu", precision="float32", runtime="torch")
RUNTIMES = ["torch", "packed", "openvino"]
TEXTS = [*tiny.TEXTS, "", "bank", "interest rate of the river bank " * 200]
WIDTH = 12


def head(layer: int = 1, states: int = 32, width: int = WIDTH, vocabulary: int = 40) -> LateHead:
    draw = np.random.default_rng(5)

    def half(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """As it comes back from where it was written."""
        return numbers.astype(np.float16).astype(np.float32)

    mean, projection = half(draw.normal(0, 0.1, states)), half(draw.normal(0, 1, (states, width)))
    blends = Blends(Blend(0, 3, 0, 4), Blend(0, 3, 2, 4))
    return LateHead(layer, mean, projection, half(draw.uniform(0.1, 9, vocabulary)), blends)


def late(family: str, folder: Path, **shape: int) -> Path:
    made = tiny.save_encoder(family, folder)
    write_late(head(**shape), made)
    return made


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_late(head(), tmp_path)
    found = read_late(tmp_path)
    assert found is not None
    assert (found.layer, found.width, found.blends, found.fingerprint) == (1, WIDTH, head().blends, head().fingerprint)
    np.testing.assert_array_equal(found.rarity, head().rarity)
    assert read_late(tmp_path / "late") is None


def test_the_fingerprint_is_of_what_shapes_vectors(tmp_path: Path) -> None:
    marks = [made.fingerprint for made in (head(), head(layer=2), head(width=8), replace(head(), mean=head().mean + 1))]
    assert len(set(marks)) == 4
    other = replace(head(), blends=Blends(), rarity=head().rarity + 1)
    assert other.fingerprint == head().fingerprint


def test_it_changes_no_vector_of_a_text(tmp_path: Path) -> None:
    plain, extended = tiny.save_encoder("bert", tmp_path / "a"), late("bert", tmp_path / "b")
    one, other = open_encoder(str(plain), TORCH), open_encoder(str(extended), TORCH)
    assert one.fingerprint == other.fingerprint
    assert (one.late, other.late is None) == (None, False)
    tokens = one.tokenize(TEXTS, "document")
    np.testing.assert_array_equal(one.encode(tokens), other.encode(tokens))
    np.testing.assert_array_equal(one.encode(tokens), [each.vector for each in other.encode_whole(tokens)])


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_token_vectors_are_states_of_the_layer_made_short(family: str, tmp_path: Path) -> None:
    folder = late(family, tmp_path / "e")
    encoder, body = open_encoder(str(folder), TORCH), SentenceTransformer(str(folder), device="cpu").eval()
    (tokens,) = encoder.tokenize([TEXTS[0]], "document")
    with torch.inference_mode():
        inputs = {"input_ids": torch.tensor([tokens.ids.tolist()]), "attention_mask": torch.ones(1, len(tokens))}
        model: Any = body.transformers_model
        states = model(**inputs, output_hidden_states=True).hidden_states[1][0].numpy()
    expected = ((states - head().mean) @ head().projection)[encoder.inside(tokens)]
    (whole,) = encoder.encode_whole([tokens])
    assert len(whole.tokens) == len(tokens.ids[encoder.inside(tokens)]) > 3
    assert cosines(whole.tokens, expected).min() > 0.998


def cosines(one: TokenVectors, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one.astype(float), axis=1) * np.linalg.norm(other, axis=1)
    found: np.ndarray = (one * other).sum(axis=1) / lengths
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_every_runtime_gives_the_same_whatever_else_is_in_the_batch(family: str, runtime: str, tmp_path: Path) -> None:
    folder = str(late(family, tmp_path / "e"))
    reference = open_encoder(folder, TORCH)
    options = replace(TORCH, runtime=runtime, conversions=tmp_path / "kept")  # type: ignore[arg-type]  # of literals
    encoder = open_encoder(folder, options)
    assert encoder.runtime == runtime
    tokens = reference.tokenize(TEXTS, "document")
    expected = [reference.encode_whole([each])[0] for each in tokens]
    for order in list(permutations(range(len(TEXTS))))[::1111]:
        for place, whole in zip(order, encoder.encode_whole([tokens[place] for place in order]), strict=True):
            np.testing.assert_allclose(whole.vector, expected[place].vector, atol=1e-5)
            assert np.abs(whole.tokens.astype(int) - expected[place].tokens).max(initial=0) <= 1
    assert encoder.encode_whole([]) == []


@pytest.mark.parametrize("family", PACKABLE)
def test_recordings_of_packed_batches_give_tokens_too(family: str, tmp_path: Path) -> None:
    encoder = open_encoder(str(late(family, tmp_path / "e")), replace(TORCH, runtime="packed"))
    assert isinstance(encoder, PackedEncoder)
    batches = [of_lengths(encoder, lengths) for lengths in ([3, 40, 17], [30, 33], [1] * 7)]
    expected = [encoder.encode_whole(batch) for batch in batches]
    made = recorded_with(encoder)
    for _ in range(3):
        for batch, wholes in zip(batches, expected, strict=True):
            for found, whole in zip(encoder.encode_whole(batch), wholes, strict=True):
                assert np.abs(found.tokens.astype(int) - whole.tokens).max(initial=0) <= 1
    assert sum(each.replays for each in made) > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", [{"layer": 3}, {"states": 24}])
def test_what_does_not_fit_the_encoder_is_refused(shape: dict[str, int], runtime: str, tmp_path: Path) -> None:
    folder = str(late("bert", tmp_path / "e", **shape))
    options = replace(TORCH, runtime=runtime, conversions=tmp_path / "kept")  # type: ignore[arg-type]  # of literals
    with pytest.raises(ModelError, match=r"has 2 layers of 32 numbers.*winnow train late"):
        open_encoder(folder, options)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def no_layer(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def another_mean(folder: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"mean": (3,), "projection": (4, 2), "rarity": (9,)}
    numbers = {name: np.ones(shape, np.float16) for name, shape in shapes.items()}
    save_file(numbers, folder / "model.safetensors")


@pytest.mark.parametrize("spoil", [no_weights, half_weights, no_layer, no_json, another_mean])
def test_a_damaged_folder_is_refused_by_name(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    write_late(head(), tmp_path)
    spoil(tmp_path / "late")
    with pytest.raises(ModelError, match=r"late (is damaged|does not fit together)"):
        read_late(tmp_path)


def test_a_blend_that_is_none_is_refused(tmp_path: Path) -> None:
    write_late(head(), tmp_path)
    (tmp_path / "late" / "blend.json").write_text(json.dumps({"dense": {"rerank": 1, "dense": 1, "lately": 1}}))
    with pytest.raises(ModelError, match=r"blend\.json must look like"):
        read_late(tmp_path)


vectors = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(0, 1, (seed % 7, WIDTH)).astype(np.float32)
)


@given(vectors, st.floats(1e-6, 1e6))
def test_a_byte_for_each_number_keeps_directions(given_vectors: np.ndarray, scale: float) -> None:
    found = rounded((given_vectors * scale).astype(np.float32))
    assert found.shape == given_vectors.shape
    assert (np.abs(found.astype(int)).max(axis=1) == 127).all()
    assert cosines(found, given_vectors).min(initial=1) > 0.999


def test_nothing_has_no_direction() -> None:
    np.testing.assert_array_equal(rounded(np.zeros((2, 3), np.float32)), np.zeros((2, 3), np.int8))


@given(vectors, st.lists(vectors, max_size=5))
def test_nearness_is_the_weighed_mean_of_the_nearest_tokens(query: np.ndarray, texts: list[np.ndarray]) -> None:
    weights = np.linspace(1, 2, len(query)).astype(np.float32)
    weights /= max(weights.sum(), 1)
    asked = TokenQuery(rounded(query), weights)
    found = nearness(asked, [rounded(text) for text in texts])
    for text, score in zip(texts, found, strict=True):
        expected = 0.0
        if len(text) and len(query):
            unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (query, text)]
            expected = float(weights @ (unit[0] @ unit[1].T).max(axis=1))
        assert score == pytest.approx(expected, abs=0.02)
        assert -1.001 <= score <= 1.001


def test_the_rarer_a_token_the_more_it_counts() -> None:
    weights = head().weights(np.array([3, 5], np.int32))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(head().rarity[3] / head().rarity[5])
    assert head().weights(np.zeros(0, np.int32)).shape == (0,)
    beyond = head().weights(np.array([39, 10**6], np.int32))
    assert beyond[0] == beyond[1]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_of_the_embedded_encoder_a_text_that_has_what_is_asked_is_nearest(runtime: str) -> None:
    encoder = open_encoder("embedded", ModelOptions(device="cpu", runtime=runtime))  # type: ignore[arg-type]
    assert encoder.late is not None
    (asked,) = encoder.tokenize(["why is ocean water salty?"], "query")
    weights = encoder.late.weights(asked.ids[encoder.inside(asked)])
    texts = [
        "Tides rise because the moon pulls.",
        "Rivers carry dissolved salts into the sea.",
        "",
        "Bread needs yeast.",
    ]
    wholes = encoder.encode_whole([asked, *encoder.tokenize(texts, "document")])
    found = nearness(TokenQuery(wholes[0].tokens, weights), [each.tokens for each in wholes[1:]])
    assert int(np.argmax(found)) == 1
    assert found[2] == 0
