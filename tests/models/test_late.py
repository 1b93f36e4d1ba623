"""That late interaction gives the scores of sentence-transformers, reads a query once, and says what it cuts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from torch import nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from models.catalog import open_encoder, open_reranker
from models.types import Blends, ModelError, ModelOptions
from tests.models import tiny
from tests.models.folders import edit

EXACT = ModelOptions(precision="float32")
QUERY = "which bank, near [MASK] is green."
TEXTS = [*tiny.TEXTS, "", "...", ", . ,", "bank", "interest rate of the river bank " * 20]
LONG = "how do vectors and graphs find what is near " * 4

EXPANSIONS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "min": {"strategy": "min", "length": 24},
    "min, attended": {"strategy": "min", "length": 24, "attend": True},
    "fixed": {"strategy": "fixed", "length": 20},
    "with a token of its own": {"strategy": "fixed", "length": 20, "token": "[UNK]", "attend": True},
}


@pytest.fixture
def late(rerankers: dict[str, str]) -> Path:
    return Path(rerankers["late"])


def library_scores(folder: Path, query: str, texts: list[str]) -> np.ndarray[Any, Any]:
    model = MultiVectorEncoder(str(folder), device="cpu")
    return model.similarity(model.encode_query([query]), model.encode_document(texts))[0].numpy()


def assert_as_the_library(folder: Path, query: str) -> None:
    ours = open_reranker(str(folder), EXACT)
    scores = ours.score(ours.tokenize(query, TEXTS))
    np.testing.assert_allclose(scores, library_scores(folder, query, TEXTS), atol=1e-4)


@pytest.mark.parametrize("expansion", EXPANSIONS)
@pytest.mark.parametrize("query", [QUERY, "", LONG])
def test_scores_equal_those_of_sentence_transformers(tmp_path: Path, expansion: str, query: str) -> None:
    assert_as_the_library(tiny.save_late(tmp_path / "m", expansion=EXPANSIONS[expansion]), query)


@pytest.mark.parametrize("settings", [{"similarity_fn_name": "meanmaxsim"}, {"query_length": 16}, {"skipped": ()}])
def test_scores_equal_those_of_sentence_transformers_however_it_is_set(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert_as_the_library(tiny.save_late(tmp_path / "m", **settings), LONG)


def as_pylate(source: Path, target: Path) -> Path:
    """The form in which PyLate 1 to 3 saved: markers beside the prompts, and no modules for masking."""
    folder = Path(shutil.copytree(source, target))
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    knobs = {"query_prefix": "[unused] ", "document_prefix": "river ", "query_length": 24, "document_length": 40}
    edit(folder / "config_sentence_transformers.json", model_type="ColBERT", prompts={}, skiplist_words=["."], **knobs)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 39, "do_lower_case": false}')
    return folder


def as_early_pylate(source: Path, target: Path) -> Path:
    """The same before it said of which kind a model is."""
    folder = as_pylate(source, target)
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    del settings["model_type"]
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def as_stanford(source: Path, target: Path) -> Path:
    """The form of the first ColBERT: the projection lies with the weights, the rest in a file of its own."""
    target.mkdir()
    for file in source.glob("*token*"):
        shutil.copy(file, target)
    weights = {f"bert.{name}": tensor for name, tensor in load_file(source / "model.safetensors").items()}
    head = load_file(source / "1_Dense" / "model.safetensors")
    save_file(weights | {"linear.weight": head["linear.weight"]}, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text((source / "config.json").read_text())
    edit(target / "config.json", architectures=["HF_ColBERT"])
    (target / "artifact.metadata").write_text(
        '{"query_maxlen": 24, "doc_maxlen": 40, "attend_to_mask_tokens": false, "query_token_id": "[UNK]"}'
    )
    return target


@pytest.mark.parametrize("form", [as_pylate, as_early_pylate, as_stanford])
def test_models_of_other_libraries_are_read_as_sentence_transformers_reads_them(
    late: Path, tmp_path: Path, form: Callable[[Path, Path], Path]
) -> None:
    folder = form(late, tmp_path / "m")
    assert_as_the_library(folder, QUERY)
    assert len(open_reranker(str(folder)).tokenize("bank", [""])[0]) > 24


def test_the_settings_of_a_stanford_model_are_part_of_its_fingerprint(late: Path, tmp_path: Path) -> None:
    folder = as_stanford(late, tmp_path / "m")
    before = open_reranker(str(folder)).fingerprint
    edit(folder / "artifact.metadata", mask_punctuation=False)
    assert open_reranker(str(folder)).fingerprint != before


@contextmanager
def passes() -> Iterator[list[int]]:
    """How many texts each pass of a transformer has."""
    seen: list[int] = []

    def see(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, BertEmbeddings):
            seen.append(len(output))

    hook = nn.modules.module.register_module_forward_hook(see)
    try:
        yield seen
    finally:
        hook.remove()


def test_a_query_is_computed_once_for_a_batch_of_its_pairs(late: Path) -> None:
    reranker = open_reranker(str(late), EXACT)
    pairs = [*reranker.tokenize("bank", TEXTS), *reranker.tokenize("river", TEXTS), *reranker.tokenize("bank", TEXTS)]
    with passes() as seen:
        mixed = reranker.score(pairs)
    assert seen == [2, 3 * len(TEXTS)]
    np.testing.assert_array_equal(mixed[: len(TEXTS)], mixed[-len(TEXTS) :])


def test_a_mask_that_a_query_spells_out_is_not_taken_for_filling(late: Path) -> None:
    reranker = open_reranker(str(late), EXACT)
    spelt, filled = reranker.tokenize("bank [MASK]", ["bank"])[0], reranker.tokenize("bank", ["bank"])[0]
    assert len(spelt) == len(filled)
    assert spelt.ids.tolist() != filled.ids.tolist() or spelt.types.tolist() != filled.types.tolist()
    assert not np.array_equal(reranker.score([spelt]), reranker.score([filled]))


def test_a_query_longer_than_the_fixed_length_is_cut_and_counted(tmp_path: Path) -> None:
    reranker = open_reranker(str(tiny.save_late(tmp_path / "m", expansion=EXPANSIONS["fixed"])))
    short, long = reranker.tokenize("bank", ["bank"])[0], reranker.tokenize(LONG, ["bank"])[0]
    assert not short.truncated
    assert long.truncated
    assert len(long) == len(short)
    cut = long.total - len(long)
    assert cut == len(reranker.tokenizer.encode(f"bank {LONG}", add_special_tokens=False).ids) + 2 - 20


def test_the_capacity_is_what_the_text_has_beside_its_prompt_whatever_the_query(late: Path) -> None:
    reranker = open_reranker(str(late))
    assert reranker.capacity == 40 - 2 - len(reranker.tokenizer.encode("river ", add_special_tokens=False).ids)
    word = reranker.tokenizer.encode("bank", add_special_tokens=False).ids
    assert len(word) == 1
    fitting, longer = reranker.tokenize(LONG[:40], ["bank " * reranker.capacity, "bank " * (reranker.capacity + 1)])
    assert not fitting.truncated
    assert longer.total - len(longer) == 1


def test_it_decides_alone_unless_a_blend_was_fitted(late: Path, tmp_path: Path) -> None:
    assert open_reranker(str(late)).blends == Blends()
    folder = Path(shutil.copytree(late, tmp_path / "m"))
    blends = {"dense": {"rerank": 1, "dense": 2}, "hybrid": {"rerank": 1, "dense": 2, "lexical": 3}}
    (folder / "blend.json").write_text(json.dumps(blends))
    assert open_reranker(str(folder)).blends.dense.dense == 2


CHANGES: dict[str, Callable[[Path], None]] = {
    "prompts": lambda folder: edit(folder / "config_sentence_transformers.json", prompts={"query": "", "document": ""}),
    "similarity": lambda folder: edit(folder / "config_sentence_transformers.json", similarity_fn_name="meanmaxsim"),
    "lengths": lambda folder: edit(folder / "sentence_bert_config.json", document_length=41),
    "expansion": lambda folder: edit(
        folder / "sentence_bert_config.json", query_expansion={"strategy": "min", "length": 25}
    ),
    "skipped words": lambda folder: edit(folder / "2_MultiVectorMask" / "config.json", skiplist_words=["bank"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_shapes_a_score_changes_the_fingerprint(late: Path, tmp_path: Path, change: str) -> None:
    folder = Path(shutil.copytree(late, tmp_path / "m"))
    assert open_reranker(str(folder)).fingerprint == open_reranker(str(late)).fingerprint
    CHANGES[change](folder)
    assert open_reranker(str(folder)).fingerprint != open_reranker(str(late)).fingerprint


def test_bfloat16_keeps_scores_where_they_are(late: Path) -> None:
    exact, rough = (open_reranker(str(late), ModelOptions(precision=each)) for each in ("float32", "bfloat16"))
    tokens = exact.tokenize(QUERY, TEXTS)
    np.testing.assert_allclose(rough.score(tokens), exact.score(tokens), rtol=0.02)


def test_it_can_not_serve_as_an_encoder(late: Path) -> None:
    with pytest.raises(ModelError, match="is a MultiVectorEncoder, which can't serve as encoder"):
        open_encoder(str(late))


def test_one_that_gives_queries_another_length_can_not_serve_as_an_encoder(
    tmp_path: Path, encoder_folder: Path
) -> None:
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "e"))
    edit(folder / "sentence_bert_config.json", query_length=16)
    with pytest.raises(ModelError, match="another length than documents"):
        open_encoder(str(folder))


def test_weights_that_give_nan_are_an_error(late: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(late, tmp_path / "m"))
    weights = load_file(folder / "1_Dense" / "model.safetensors")
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, folder / "1_Dense" / "model.safetensors")
    reranker = open_reranker(str(folder), EXACT)
    with pytest.raises(ModelError, match="not finite"):
        reranker.score(reranker.tokenize("bank", ["bank"]))


def test_a_prompt_of_documents_belongs_to_what_is_read_and_to_its_mark(tmp_path: Path) -> None:
    prompts = [{"query": "bank ", "document": "river "}, {"query": "other ", "document": "river "}, {"document": ""}]
    one, other, bare = (
        open_reranker(str(tiny.save_late(tmp_path / str(number), prompts=each))) for number, each in enumerate(prompts)
    )
    assert one.tokenisation == other.tokenisation != bare.tokenisation
    (behind,), (alone,) = one.read(["bank"]), bare.read(["bank"])
    assert behind.tolist()[-len(alone) :] == alone.tolist() != behind.tolist()
