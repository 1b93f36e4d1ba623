"""Rerankers in whole numbers of 8 bits: nearly the same, and only where that can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from structlog.testing import capture_logs

from models import openvino_runtime
from models.catalog import locate, open_encoder, open_reranker
from models.conversions import converted
from models.converted import Source
from models.eight_bits import quantized, read_ranges
from models.proof import TOLERANCES
from models.runtimes import Unavailable
from models.types import NO_PROMPTS, ModelError, ModelOptions, Reranker
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
    np.testing.assert_allclose(short.score(pairs), alone, atol=1e-4)


def _copy(folder: Path) -> Path:
    return shutil.copytree(locate("embedded", "reranker", ModelOptions()), folder / "reranker")


def test_without_known_ranges_what_comes_in_is_rounded_as_it_comes(short: Reranker, tmp_path: Path) -> None:
    exact, copy = open_reranker("embedded", EXACT), _copy(tmp_path)
    (copy / "int8.safetensors").unlink()
    without = open_reranker(str(copy), SHORT)
    pairs = exact.tokenize(QUERY, TEXTS)
    full, known, unknown = (each.score(pairs) for each in (exact, short, without))
    assert 0 < np.abs(unknown - full).max() < 0.1 * np.abs(full).max()
    assert np.abs(unknown - known).max() > 0
    assert without.fingerprint != short.fingerprint  # so that what was kept of the one does not count for the other


@pytest.mark.parametrize(
    "bent",
    [lambda rows: rows[:, 1:], lambda rows: rows * np.float32("nan"), lambda rows: rows[::-1]],
    ids=["fewer places", "not finite", "upside down"],
)
def test_ranges_that_do_not_fit_a_network_are_refused(bent: Callable[[NDArray[np.float32]], Any]) -> None:
    path = locate("embedded", "reranker", ModelOptions())
    network = converted(Source("embedded", path, "reranker", EXACT, NO_PROMPTS)).network
    known = read_ranges(path)
    assert known
    with pytest.raises(Unavailable, match="`winnow train rounding` makes one that does"):
        quantized(network, {name: bent(rows) for name, rows in known.items()})


def test_with_ranges_of_another_model_a_reranker_stays_as_it_is_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openvino_runtime, "prefers_eight_bits", lambda: True)
    file = _copy(tmp_path) / "int8.safetensors"
    save_file({"another": np.zeros((2, 384), np.float32)}, file)
    with capture_logs() as lines:
        opened = open_reranker(str(file.parent), replace(EXACT, precision="auto"))
    assert opened.precision != "int8"
    (told,) = [line for line in lines if line["event"] == "reranker is not rounded to 8 bits"]
    assert "does not fit it" in told["reason"]
    with pytest.raises(ModelError, match="does not fit it"):
        open_reranker(str(file.parent), SHORT)


def test_damaged_ranges_are_an_error(tmp_path: Path) -> None:
    file = _copy(tmp_path) / "int8.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is damaged: fetch the model again, or remove that file"):
        open_reranker(str(file.parent), EXACT)


def _with_price(folder: Path, **told: object) -> str:
    """A copy of the embedded reranker that says so of 8 bits, or nothing."""
    copy = _copy(folder)
    (copy / "int8.json").unlink(missing_ok=True)
    if told:
        (copy / "int8.json").write_text(json.dumps(told))
    return str(copy)


@pytest.mark.parametrize(
    ("told", "faster", "rounded"),
    [
        ({"difference": -0.001, "low": -0.003}, True, True),
        ({"difference": -0.001, "low": -0.003}, False, False),
        ({"difference": -0.001, "low": -0.03}, True, False),
        ({}, True, False),
    ],
    ids=["costs nothing", "saves nothing", "may cost something", "nobody knows"],
)
def test_unasked_a_reranker_is_rounded_where_it_says_that_it_costs_nothing_and_it_saves_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: dict[str, object], faster: bool, rounded: bool
) -> None:
    monkeypatch.setattr(openvino_runtime, "prefers_eight_bits", lambda: faster)
    opened = open_reranker(_with_price(tmp_path, **told), replace(EXACT, precision="auto"))
    assert (opened.precision == "int8") is rounded


def test_one_that_says_something_else_when_rounded_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openvino_runtime, "prefers_eight_bits", lambda: True)
    monkeypatch.setitem(TOLERANCES, "int8", 1e-9)
    with capture_logs() as lines:
        opened = open_reranker(_with_price(tmp_path, low=0), replace(EXACT, precision="auto"))
    assert opened.precision != "int8"
    assert "reranker is not rounded to 8 bits" in {line["event"] for line in lines}


def test_what_is_asked_for_comes_before_what_a_folder_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openvino_runtime, "prefers_eight_bits", lambda: True)
    assert open_reranker(_with_price(tmp_path, low=0), EXACT).precision == "float32"


@pytest.mark.parametrize("low", ["-0.001", None, True, float("nan")])
def test_a_price_that_is_no_number_is_refused_with_what_it_should_look_like(tmp_path: Path, low: object) -> None:
    with pytest.raises(ModelError, match=r'int8\.json must look like \{"measure"'):
        open_reranker(_with_price(tmp_path, low=low), replace(EXACT, precision="auto"))


def test_vectors_are_not_rounded() -> None:
    usual, asked = (open_encoder("embedded", replace(EXACT, precision=each)) for each in ("auto", "int8"))
    batch = usual.tokenize(TEXTS, "document")
    np.testing.assert_array_equal(asked.encode(batch), usual.encode(batch))
    assert (asked.fingerprint, asked.precision) == (usual.fingerprint, usual.precision)


@pytest.mark.parametrize("options", [replace(SHORT, runtime="torch"), replace(SHORT, runtime="auto", device="meta")])
def test_torch_does_not_pretend_to_it(options: ModelOptions) -> None:
    with pytest.raises(ModelError, match="let the precision be `auto`"):
        open_reranker("embedded", options)


def test_neither_does_late_interaction(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tiny.save_late(tmp_path_factory.mktemp("late"))
    with pytest.raises(ModelError, match="int8"):
        open_reranker(str(folder), replace(SHORT, runtime="auto"))
