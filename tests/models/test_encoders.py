"""What every encoder must do, whatever computes it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.catalog import open_encoder
from models.types import BiEncoder, ModelOptions, Role, Tokens
from tests.models import tiny
from tests.models.folders import edit

RUNTIMES: dict[str, ModelOptions] = {
    "torch": ModelOptions(precision="float32", runtime="torch"),
    "openvino": ModelOptions(precision="float32", runtime="openvino"),
    "packed": ModelOptions(device="cpu", precision="float32", runtime="packed"),
}
EVERY = (*tiny.ENCODERS, "minilm", "embedded")
BACKENDS = [
    *(f"{runtime} {family}" for runtime in ("torch", "openvino") for family in EVERY),
    *(f"packed {family}" for family in (*tiny.FAMILIES, "nomic_bert", "qwen3")),
]
TEXTS = [*tiny.TEXTS, "", "...", "\n", "🦜" * 7, "bank " * 9]


@pytest.fixture(scope="module", params=["fake", *BACKENDS])
def encoder(request: pytest.FixtureRequest, encoders: dict[str, str]) -> BiEncoder:
    runtime, _, family = request.param.rpartition(" ")
    return open_encoder(encoders[family], RUNTIMES.get(runtime))


def ids(tokens: list[Tokens]) -> list[list[int]]:
    return [one.ids.tolist() for one in tokens]


def words_that_fit(encoder: BiEncoder, room: int) -> str:
    """As many words as take no more than so many tokens."""
    tokenizer = encoder.tokenizer
    count = room
    while len(tokenizer.encode("bank " * count, add_special_tokens=False).ids) > room:
        count -= 1
    return "bank " * count


@pytest.mark.parametrize("role", ["query", "document"])
def test_every_text_has_a_unit_vector_even_without_words(encoder: BiEncoder, role: Role) -> None:
    vectors = encoder.encode(encoder.tokenize(TEXTS, role))
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), encoder.dimensions)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_where_no_special_tokens_frame_a_text_one_without_words_is_near_nothing(
    encoders: dict[str, str], tmp_path: Path, runtime: str, family: str
) -> None:
    folder = shutil.copytree(encoders[family], tmp_path / "bare")
    edit(folder / "tokenizer.json", post_processor=None)
    edit(folder / "config_sentence_transformers.json", prompts={})
    bare = open_encoder(str(folder), replace(RUNTIMES[runtime], conversions=tmp_path / "kept"))
    alone = bare.encode(bare.tokenize([""], "document"))
    assert bare.runtime == runtime
    assert not alone.any()
    vectors = bare.encode(bare.tokenize(["", "bank", ""], "document"))
    np.testing.assert_array_equal(vectors[[0, 2]], np.concatenate([alone, alone]))
    np.testing.assert_allclose(vectors[[1]], bare.encode(bare.tokenize(["bank"], "document")), atol=2e-6)
    assert np.linalg.norm(vectors[1]) == pytest.approx(1)


def test_no_texts_give_no_vectors(encoder: BiEncoder) -> None:
    assert encoder.tokenize([], "query") == []
    assert encoder.encode([]).shape == (0, encoder.dimensions)


def test_a_vector_does_not_depend_on_its_neighbours_in_the_batch(encoder: BiEncoder) -> None:
    tokens = encoder.tokenize(TEXTS, "document")
    together = encoder.encode(tokens)
    alone = np.concatenate([encoder.encode([one]) for one in tokens])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_array_equal(together, encoder.encode(tokens))


def test_a_text_within_the_capacity_is_not_cut(encoder: BiEncoder) -> None:
    (tokens,) = encoder.tokenize([words_that_fit(encoder, encoder.capacity)], "document")
    assert not tokens.truncated
    assert tokens.total == len(tokens) == len(tokens.types)


def test_a_cut_is_counted_and_keeps_the_special_tokens(encoder: BiEncoder) -> None:
    short, long, longer = encoder.tokenize(["bank", "bank " * 600, "bank " * 700], "document")
    assert long.truncated
    assert long.total < longer.total
    assert len(long) == len(longer) >= encoder.capacity
    assert (long.ids[0], long.ids[-1]) == (short.ids[0], short.ids[-1])
    assert encoder.encode([long]) == pytest.approx(encoder.encode([longer]))


def test_the_capacity_is_exact_up_to_a_blank_that_text_and_prompt_share(encoder: BiEncoder) -> None:
    text = "bank " * 600
    (tokens,) = encoder.tokenize([text], "document")
    content = len(encoder.tokenizer.encode(text, add_special_tokens=False).ids)
    blank = int(encoder.prompts["document"].endswith(" "))
    assert content - encoder.capacity - blank <= tokens.total - len(tokens) <= content - encoder.capacity


def test_threads_tokenize_side_by_side(encoder: BiEncoder) -> None:
    expected = ids(encoder.tokenize(TEXTS, "query"))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: ids(encoder.tokenize(TEXTS, "query")), range(64)))
    assert results == [expected] * 64


def test_the_tokenizer_neither_cuts_nor_pads(encoder: BiEncoder) -> None:
    tokenizer = encoder.tokenizer
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert len(tokenizer.encode("bank " * 900, add_special_tokens=False).ids) >= 900


def test_tokens_have_places_in_the_text(encoder: BiEncoder) -> None:
    text = "The bank, the Köln bank."
    encoding = encoder.tokenizer.encode(text, add_special_tokens=False)
    assert encoding.offsets[0][0] == 0
    assert encoding.offsets[-1][1] == len(text)


def test_opening_a_model_again_gives_the_same_fingerprint(encoder: BiEncoder) -> None:
    again = open_encoder(encoder.name, ModelOptions(precision="bfloat16"))
    assert again.fingerprint == encoder.fingerprint
    assert len(encoder.fingerprint) == 64


def test_it_says_where_it_runs(encoder: BiEncoder) -> None:
    assert encoder.device.split(":")[0] in {"cpu", "cuda", "mps"}
