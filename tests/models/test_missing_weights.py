"""A folder that lacks weights is refused by name: transformers would put random numbers in their place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from models.catalog import open_encoder, open_reranker
from models.types import ModelError, ModelOptions
from tests.models import tiny

EXACT = ModelOptions(precision="float32", runtime="torch")


def without(folder: str, target: Path, gone: Callable[[str], bool]) -> tuple[str, list[str]]:
    """A copy that lacks some of its weights, and their names."""
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if not gone(name)}, file, metadata={"format": "pt"})
    return str(target), [name for name in weights if gone(name)]


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_an_encoder_that_lacks_a_weight_is_refused(encoders: dict[str, str], tmp_path: Path, family: str) -> None:
    weights = sorted(load_file(Path(encoders[family]) / "model.safetensors"))
    victim = next(name for name in weights if ".1." in name and "norm" in name.lower())
    folder, _ = without(encoders[family], tmp_path / family, lambda name: name == victim)
    with pytest.raises(ModelError, match=r"(?i)without some of its weights \((encoder\.)?layers?\.1\..*norm.*\)"):
        open_encoder(folder, EXACT)


def test_of_many_weights_that_lack_a_few_are_named_and_the_rest_counted(
    encoders: dict[str, str], tmp_path: Path
) -> None:
    folder, gone = without(encoders["bert"], tmp_path / "bert", lambda name: ".1." in name)
    with pytest.raises(ModelError, match="without some of its weights") as caught:
        open_encoder(folder, EXACT)
    named = re.findall(r"encoder\.layer\.1\.[\w.]+", str(caught.value))
    assert len(named) == 3
    assert set(named) <= set(gone)
    assert f"and {len(gone) - 3} more" in str(caught.value)


def test_an_encoder_needs_no_pooler_and_a_reranker_does(
    encoders: dict[str, str], rerankers: dict[str, str], tmp_path: Path
) -> None:
    folder, gone = without(encoders["bert"], tmp_path / "encoder", lambda name: "pooler" in name)
    assert gone
    encoder, whole = open_encoder(folder, EXACT), open_encoder(encoders["bert"], EXACT)
    tokens = encoder.tokenize(tiny.TEXTS, "document")
    assert (encoder.encode(tokens) == whole.encode(tokens)).all()
    folder, gone = without(rerankers["bert"], tmp_path / "reranker", lambda name: "pooler" in name)
    with pytest.raises(ModelError, match=r"without some of its weights \(pooler\.dense"):
        open_reranker(folder, EXACT)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_reranker_that_lacks_a_layer_is_refused_too(rerankers: dict[str, str], tmp_path: Path, family: str) -> None:
    folder, _ = without(rerankers[family], tmp_path / family, lambda name: ".1." in name and "norm" in name.lower())
    with pytest.raises(ModelError, match="without some of its weights"):
        open_reranker(folder, EXACT)


def test_a_weight_that_two_places_share_is_saved_once_and_not_missed(encoders: dict[str, str], tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(encoders["bert"])
    shape: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    modules = [Transformer(str(tmp_path / "body"), max_seq_length=64), Pooling(32)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "t5"))
    weights = set(load_file(tmp_path / "t5" / "model.safetensors"))
    assert len(weights & {"shared.weight", "encoder.embed_tokens.weight"}) == 1
    assert open_encoder(str(tmp_path / "t5"), EXACT).dimensions == 32
