"""What every sparse encoder must do, that ours gives what sentence-transformers gives, and what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder as LibraryEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SpladePooling

from models import sparse
from models.catalog import open_encoder, open_reranker, open_sparse
from models.fake import FakeSparseEncoder
from models.types import ModelError, ModelOptions, Role, SparseEncoder, SparseVector
from tests.models import tiny
from tests.models.folders import edit

EXACT = ModelOptions(precision="float32")
TEXTS = [*tiny.TEXTS, "", "...", "\n", "bank " * 9]
TORCH = ["splade", "lookup", "plain", "prompted"]
SETTINGS = "config_sentence_transformers.json"


@pytest.fixture(scope="module", params=["fake", "fake:lookup", *TORCH])
def encoder(request: pytest.FixtureRequest, sparse_encoders: dict[str, str]) -> SparseEncoder:
    return open_sparse(sparse_encoders[request.param], EXACT)


def weighed(encoder: SparseEncoder, texts: list[str], role: Role) -> list[SparseVector]:
    return encoder.encode(encoder.tokenize(texts, role), role)


def in_both(one: SparseVector, other: SparseVector) -> float:
    weights = dict(zip(other.terms.tolist(), other.weights.tolist(), strict=True))
    both = zip(one.terms.tolist(), one.weights.tolist(), strict=True)
    return float(sum(weight * weights.get(term, 0.0) for term, weight in both))


@pytest.mark.parametrize("role", ["query", "document"])
def test_terms_rise_and_their_weights_are_above_0(encoder: SparseEncoder, role: Role) -> None:
    vectors = weighed(encoder, TEXTS, role)
    assert len(vectors) == len(TEXTS)
    for vector in vectors:
        assert vector.terms.dtype == np.int32
        assert vector.weights.dtype == np.float32
        assert len(vector.terms) == len(vector.weights) == len(vector) <= encoder.most_terms
        assert (np.diff(vector.terms) > 0).all()
        assert (vector.weights > 0).all()


def test_where_no_special_tokens_frame_a_text_one_without_words_has_no_terms(
    sparse_encoders: dict[str, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(sparse_encoders["splade"], tmp_path / "bare")
    edit(folder / "tokenizer.json", post_processor=None)
    bare = open_sparse(str(folder), EXACT)
    assert [len(vector) for vector in weighed(bare, [""], "document")] == [0]
    first, second = weighed(bare, ["", "bank"], "document")
    assert len(first) == 0 < len(second)


def test_no_texts_give_no_vectors(encoder: SparseEncoder) -> None:
    assert encoder.tokenize([], "query") == []
    assert encoder.encode([], "query") == []


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_vector_does_not_depend_on_its_neighbours_in_the_batch(encoder: SparseEncoder, role: Role) -> None:
    together = weighed(encoder, TEXTS, role)
    for text, vector in zip(TEXTS, together, strict=True):
        (alone,) = weighed(encoder, [text], role)
        np.testing.assert_array_equal(alone.terms, vector.terms)
        np.testing.assert_allclose(alone.weights, vector.weights, atol=1e-5)


def test_a_cut_is_counted(encoder: SparseEncoder) -> None:
    fits, long, longer = encoder.tokenize(["bank", "bank " * 600, "bank " * 700], "document")
    assert not fits.truncated
    assert fits.total == len(fits)
    assert long.truncated
    assert long.total < longer.total
    assert encoder.capacity <= len(long) == len(longer)


def test_a_query_is_cut_and_counted_only_where_its_side_has_a_limit(encoder: SparseEncoder) -> None:
    (tokens,) = encoder.tokenize(["bank " * 600], "query")
    assert tokens.total >= 600
    assert tokens.truncated == (len(tokens) < tokens.total)


def test_threads_tokenize_side_by_side(encoder: SparseEncoder) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: encoder.tokenize(TEXTS, "document"), range(20)))
    assert all([one.ids.tolist() for one in each] == [one.ids.tolist() for one in found[0]] for each in found)


def test_it_is_the_same_when_opened_again(encoder: SparseEncoder, sparse_encoders: dict[str, str]) -> None:
    again = open_sparse(encoder.name, EXACT)
    assert again.fingerprint == encoder.fingerprint
    assert len(encoder.fingerprint) == 64
    others = [open_sparse(name, EXACT) for name in sparse_encoders.values() if name != encoder.name]
    assert encoder.fingerprint not in {other.fingerprint for other in others}


@pytest.mark.parametrize("name", ["plain", "fake"])
def test_texts_have_to_do_with_each_other_what_their_words_have(name: str, sparse_encoders: dict[str, str]) -> None:
    encoder = open_sparse(sparse_encoders[name], EXACT)
    (query,) = weighed(encoder, ["green river"], "query")
    scores = [in_both(query, text) for text in weighed(encoder, tiny.TEXTS, "document")]
    assert np.argmax(scores) == 0
    assert scores[0] > 0
    assert scores[2] == 0


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("role", ["query", "document"])
def test_weights_equal_those_of_sentence_transformers(name: str, role: Role, sparse_encoders: dict[str, str]) -> None:
    assert_as_the_library(Path(sparse_encoders[name]), role)


def assert_as_the_library(folder: Path, role: Role) -> None:
    library = LibraryEncoder(str(folder), device="cpu")
    encode = library.encode_query if role == "query" else library.encode_document
    expected = encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    found = np.zeros_like(expected)
    for row, vector in zip(found, weighed(open_sparse(str(folder), EXACT), TEXTS, role), strict=True):
        row[vector.terms] = vector.weights
    np.testing.assert_allclose(found, expected, atol=1e-5)


def as_on_the_hub(source: Path, target: Path) -> Path:
    """The form in which inference-free models were put on the hub: the document's side lies in the model's own folder,
    and modules have the names of earlier versions."""
    folder = Path(shutil.copytree(source, target))
    for file in (folder / "document_0_Transformer").iterdir():
        file.rename(folder / file.name)
    routes = json.loads((folder / "router_config.json").read_text())
    early = "sentence_transformers.sparse_encoder.models"
    routes["types"] = {
        "query_0_SparseStaticEmbedding": f"{early}.SparseStaticEmbedding",
        "": f"{early}.MLMTransformer",
        "document_1_SpladePooling": f"{early}.SpladePooling",
    }
    routes["structure"]["document"][0] = ""
    (folder / "router_config.json").write_text(json.dumps(routes))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": false}')
    return folder


@pytest.mark.parametrize("role", ["query", "document"])
def test_the_form_of_early_models_is_read(role: Role, sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    assert_as_the_library(as_on_the_hub(Path(sparse_encoders["lookup"]), tmp_path / "m"), role)


def test_what_is_looked_up_takes_no_model(sparse_encoders: dict[str, str]) -> None:
    reads = {name: open_sparse(folder, EXACT).reads_queries for name, folder in sparse_encoders.items()}
    assert {name for name, does in reads.items() if not does} == {"lookup", "fake:lookup"}


def test_bfloat16_finds_the_same_words(sparse_encoders: dict[str, str]) -> None:
    exact, narrow = (
        weighed(open_sparse(sparse_encoders["plain"], ModelOptions(precision=precision)), tiny.TEXTS, "document")
        for precision in ("float32", "bfloat16")
    )
    for one, other in zip(exact, narrow, strict=True):
        np.testing.assert_array_equal(one.terms, other.terms)
        np.testing.assert_allclose(one.weights, other.weights, rtol=0.05)


@pytest.mark.parametrize("name", ["splade", "fake"])
def test_of_more_terms_than_are_kept_the_heaviest_stay(
    name: str, sparse_encoders: dict[str, str], tmp_path: Path
) -> None:
    every = open_sparse(sparse_encoders[name], EXACT)
    few = FakeSparseEncoder(most_terms=7) if name == "fake" else keeping(7, Path(every.name), tmp_path / "m")
    both = zip(weighed(every, tiny.TEXTS, "document"), weighed(few, tiny.TEXTS, "document"), strict=True)
    for whole, kept in both:
        assert len(kept) == 7 < len(whole)
        np.testing.assert_allclose(np.sort(kept.weights), np.sort(whole.weights)[-7:], atol=1e-6)
    assert few.fingerprint != every.fingerprint


def keeping(most: int, source: Path, target: Path) -> SparseEncoder:
    """A model that says by itself how many terms it keeps."""
    folder = Path(shutil.copytree(source, target))
    edit(folder / SETTINGS, max_active_dims=most)
    return open_sparse(str(folder), EXACT)


@pytest.mark.parametrize("file", ["query_0_SparseStaticEmbedding/model.safetensors", "router_config.json"])
def test_the_fingerprint_covers_both_sides(file: str, sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_encoders["lookup"], tmp_path / "m"))
    before = open_sparse(str(folder), EXACT).fingerprint
    if file.endswith(".json"):
        routes = json.loads((folder / file).read_text())
        routes["parameters"]["default_route"] = "query"
        (folder / file).write_text(json.dumps(routes))
    else:
        save_file({name: tensor * 2 for name, tensor in load_file(folder / file).items()}, folder / file)
    assert open_sparse(str(folder), EXACT).fingerprint != before


def test_each_kind_is_refused_in_the_others_place(
    encoder_folder: Path, reranker_folder: Path, sparse_encoders: dict[str, str]
) -> None:
    with pytest.raises(ModelError, match="is a SentenceTransformer, which can't serve as sparse encoder"):
        open_sparse(str(encoder_folder))
    with pytest.raises(ModelError, match="is a CrossEncoder, which can't serve as sparse encoder"):
        open_sparse(str(reranker_folder))
    with pytest.raises(ModelError, match="is a SparseEncoder, which can't serve as encoder"):
        open_encoder(sparse_encoders["splade"])
    with pytest.raises(ModelError, match="is a SparseEncoder, which can't serve as reranker"):
        open_reranker(sparse_encoders["lookup"])


def test_a_masked_language_model_that_nobody_trained_for_it_is_refused(tmp_path: Path) -> None:
    tiny.save_sparse(tmp_path / "m")
    with pytest.raises(ModelError, match=r"Name a folder that SparseEncoder saved"):
        open_sparse(str(tmp_path / "m-body"))


@pytest.mark.parametrize("name", ["/no/such/folder", "embedded", "nothing", ""])
def test_a_name_that_opens_nothing_says_what_would(name: str) -> None:
    with pytest.raises(ModelError, match=r"no sparse encoder .+ existing folder or a hub model|existing folder, a hub"):
        open_sparse(name)


def test_a_model_that_is_known_to_be_pickled_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(ModelError, match=r"weights are pickled: choose .+v2-distill instead"):
        open_sparse("naver/splade-v3")
    with pytest.raises(ModelError, match="of the kind sparse, which can't serve as encoder"):
        open_encoder("naver/splade-v3")
    with pytest.raises(ModelError, match="of the kind encoder, which can't serve as sparse encoder"):
        open_sparse("BAAI/bge-m3")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("splade", "model.safetensors"),
        ("lookup", "query_0_SparseStaticEmbedding/model.safetensors"),
        ("lookup", "document_0_Transformer/model.safetensors"),
    ],
)
def test_weights_that_are_missing_or_pickled_are_refused(
    name: str, file: str, sparse_encoders: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sparse_encoders[name], tmp_path / "m"))
    (folder / file).unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        open_sparse(str(folder))
    (folder / file).with_name("pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="pickles can run code"):
        open_sparse(str(folder))


def test_a_head_that_was_not_saved_is_refused_and_not_made_up(sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_encoders["splade"], tmp_path / "m"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "transform.dense" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"without the head that foresees words \(cls\.predictions\.transform\.dense"):
        open_sparse(str(folder))


def test_code_behind_a_router_is_never_run(sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_encoders["lookup"], tmp_path / "m"))
    (folder / "custom.py").write_text("raise SystemExit('the code ran')")
    routes = json.loads((folder / "router_config.json").read_text())
    routes["types"]["query_0_SparseStaticEmbedding"] = "custom.Table"
    (folder / "router_config.json").write_text(json.dumps(routes))
    with pytest.raises(ModelError, match=r"needs code of its own \(custom\.Table\)"):
        open_sparse(str(folder))


@pytest.mark.parametrize("damage", ["{", "{}", '{"types": []}'])
def test_a_damaged_router_is_an_error(damage: str, sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_encoders["lookup"], tmp_path / "m"))
    (folder / "router_config.json").write_text(damage)
    with pytest.raises(ModelError, match="router_config"):
        open_sparse(str(folder))


def test_other_comparisons_than_by_products_are_refused(sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_encoders["splade"], tmp_path / "m"))
    edit(folder / SETTINGS, similarity_fn_name="cosine")
    with pytest.raises(ModelError, match="compared by cosine"):
        open_sparse(str(folder))


def saved(folder: Path, *modules: Any) -> str:
    LibraryEncoder(modules=list(modules), device="cpu").save(str(folder), create_model_card=False)
    return str(folder)


def test_what_ends_in_something_else_than_pooled_words_is_refused(tmp_path: Path, encoder_folder: Path) -> None:
    body = Transformer(str(encoder_folder.with_name("bert-body")))
    with pytest.raises(ModelError, match="ends in Normalize, which is not supported"):
        open_sparse(saved(tmp_path / "a", body, SpladePooling(), Normalize()))
    with pytest.raises(ModelError, match="ends in SparseAutoEncoder"):
        open_sparse(saved(tmp_path / "b", body, Pooling(32), SparseAutoEncoder(32)))
    with pytest.raises(ModelError, match="foresees no words"):
        open_sparse(saved(tmp_path / "c", body, SpladePooling()))


def test_a_table_with_weights_below_0_is_refused(sparse_encoders: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_encoders["lookup"], tmp_path / "m"))
    file = folder / "query_0_SparseStaticEmbedding" / "model.safetensors"
    save_file({"weight": -torch.ones_like(load_file(file)["weight"])}, file)
    with pytest.raises(ModelError, match="weights below 0"):
        open_sparse(str(folder))


def test_a_prompt_takes_room(sparse_encoders: dict[str, str]) -> None:
    plain, prompted = (open_sparse(sparse_encoders[name], EXACT) for name in ("splade", "prompted"))
    assert prompted.prompts == {"query": "bank ", "document": "river of "}
    assert prompted.capacity < plain.capacity
    assert plain.most_terms == prompted.most_terms == sparse.MOST_TERMS
