"""What a reranker's scores are is read off its folder, and is what torch makes of its logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from models.catalog import open_reranker
from models.folder import read_unit
from models.torch_runtime import TorchReranker
from models.types import ModelOptions, Unit
from tests.models import tiny
from tests.models.folders import SETTINGS, edit

TORCH = ModelOptions(precision="float32", runtime="torch")
OPENVINO = ModelOptions(precision="float32", runtime="openvino")


def without_settings(folder: Path) -> Path:
    """A model as others than sentence-transformers save it."""
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({key: told for key, told in settings.items() if key != "activation_fn"}))
    return folder


def check(folder: Path, unit: Unit, activation: type[nn.Module]) -> None:
    reranker = TorchReranker(str(folder), folder, TORCH)
    assert (reranker.unit, type(reranker.activation)) == (unit, activation)


@pytest.mark.parametrize(
    ("activation", "unit"),
    [(nn.Identity, "logit"), (nn.Sigmoid, "probability"), (nn.Tanh, "similarity")],
)
def test_a_reranker_says_what_its_activation_makes_of_logits(
    tmp_path: Path, activation: type[nn.Module], unit: Unit
) -> None:
    check(tiny.save_reranker("bert", tmp_path / "model", activation_fn=activation()), unit, activation)


def test_without_a_saved_activation_it_is_the_sigmoid(tmp_path: Path) -> None:
    check(without_settings(tiny.save_reranker("bert", tmp_path / "model")), "probability", nn.Sigmoid)


@pytest.mark.parametrize("place", ["now", "long ago"])
def test_an_activation_in_the_configuration_counts_as_well(tmp_path: Path, place: str) -> None:
    folder = without_settings(tiny.save_reranker("bert", tmp_path / "model"))
    name = "torch.nn.modules.linear.Identity"
    said = {"sentence_transformers": {"activation_fn": name}, "sbert_ce_default_activation_function": name}
    kept = "sentence_transformers" if place == "now" else "sbert_ce_default_activation_function"
    edit(folder / "config.json", **{kept: said[kept]})
    check(folder, "logit", nn.Identity)


def test_it_is_the_same_in_openvino_as_in_torch(rerankers: dict[str, str]) -> None:
    for name in (rerankers["bert"], "embedded"):
        assert open_reranker(name, OPENVINO).unit == open_reranker(name, TORCH).unit
    assert open_reranker("embedded", OPENVINO).unit == "logit"
    assert read_unit(Path(rerankers["bert"])) == "probability"


def test_sums_of_similarities_are_neither_logits_nor_probabilities(rerankers: dict[str, str]) -> None:
    assert open_reranker(rerankers["late"], TORCH).unit == "similarity"
