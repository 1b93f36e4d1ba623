"""A network that is cut otherwise for bfloat16 says what it said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import conversions, matrix_unit
from models.catalog import locate
from models.convert import convert
from models.converted import Converted, Source
from models.matrix_unit import recut
from models.network import Network
from models.quiet_openvino import core, openvino
from models.types import NO_PROMPTS, ModelOptions
from tests.models import tiny

EXACT = ModelOptions(precision="float32", runtime="openvino")
ops = openvino.opset15


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_unit, "PART", 20)


def converted(folder: str, kind: Any) -> Converted:
    return convert(Source(folder, Path(folder), kind, EXACT, NO_PROMPTS))


def operations(network: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in network.get_ops())


def answers(model: Converted, network: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return Network(network, model.facts.padding, model.facts.limit, EXACT).run(model.facts.tokens())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_stay_what_they_were(rerankers: dict[str, str], family: str) -> None:
    model = converted(rerankers[family], "reranker")
    np.testing.assert_allclose(answers(model, recut(model.network)), answers(model, model.network), atol=1e-6)


@pytest.mark.parametrize("family", tiny.ENCODERS)
def test_vectors_stay_what_they_were(encoders: dict[str, str], family: str) -> None:
    model = converted(encoders[family], "encoder")
    np.testing.assert_allclose(answers(model, recut(model.network)), answers(model, model.network), atol=1e-6)


def test_attention_is_spelled_out_and_wide_layers_come_in_parts() -> None:
    folder = locate("embedded", "reranker", EXACT)
    model = conversions.converted(Source("embedded", folder, "reranker", EXACT, NO_PROMPTS))
    other = recut(model.network)
    before, after = operations(model.network), operations(other)
    assert (before["ScaledDotProductAttention"], before["Gelu"]) == (6, 6)
    assert (after["ScaledDotProductAttention"], after["Softmax"], after["Gelu"]) == (0, 6, 18)
    np.testing.assert_allclose(answers(model, other), answers(model, model.network), atol=1e-5)


WIDTH = 8
ROWS = np.random.default_rng(1).normal(size=(2, 5, WIDTH)).astype(np.float32)
UP = np.random.default_rng(2).normal(size=(48, WIDTH)).astype(np.float32) / 4
DOWN = np.random.default_rng(3).normal(size=(WIDTH, 48)).astype(np.float32) / 4
MASK = np.where(np.arange(5) < 4, 0, -np.inf).astype(np.float32).reshape(1, 1, 1, 5)


def _stays(made: Any, rows: Any) -> Counter[str]:
    network = openvino.Model([ops.result(made)], [rows])
    other = recut(network)
    before, after = (
        core().compile_model(each, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(ROWS)[0] for each in (network, other)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
    return operations(other)


def _heads(of: Any) -> Any:
    shape, order = np.array([0, 0, 2, WIDTH // 2]), np.array([0, 2, 1, 3])
    return ops.transpose(ops.reshape(of, ops.constant(shape), True), ops.constant(order))


def _attention(query: Any, key: Any, *more: Any, causal: bool = False) -> Any:
    return ops.scaled_dot_product_attention(query, key, key, *more, causal=causal)


def test_what_is_query_and_key_at_once_is_scaled_once() -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    both, scale = _heads(rows), ops.constant(np.float32(0.3))
    after = _stays(_attention(both, both, ops.constant(MASK), scale), rows)
    assert after["ScaledDotProductAttention"] == 0


def test_keys_that_are_turned_twice_are_turned_once() -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    split = ops.reshape(ops.relu(rows), ops.constant(np.array([0, 0, 2, WIDTH // 2])), True)
    keys = ops.transpose(
        ops.transpose(split, ops.constant(np.array([0, 2, 3, 1]))), ops.constant(np.array([0, 1, 3, 2]))
    )
    query, value = _heads(rows), _heads(ops.tanh(rows))
    more = ops.constant(MASK), ops.constant(np.float32(0.3))
    assert _stays(ops.scaled_dot_product_attention(query, keys, value, *more), rows)["Transpose"] == 3


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_another_kind_stays_one_operation(causal: bool) -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    more = [ops.constant(MASK), ops.constant(np.float32(0.3))] if causal else [ops.constant(MASK > -1)]
    after = _stays(_attention(_heads(rows), _heads(ops.relu(rows)), *more, causal=causal), rows)
    assert after["ScaledDotProductAttention"] == 1


def _up(of: Any) -> Any:
    return ops.add(ops.matmul(of, ops.constant(UP), False, True), ops.constant(UP[:, 0].copy()))


def _down(of: Any) -> Any:
    return ops.add(ops.matmul(of, ops.constant(DOWN), False, True), ops.constant(DOWN[:, 0].copy()))


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("mode", ["erf", "tanh"])
def test_layers_come_in_parts_with_the_activation_that_they_had(mode: str) -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    assert _stays(_down(ops.gelu(_up(rows), mode)), rows)["Gelu"] == 3


@pytest.mark.usefixtures("small_parts")
def test_what_is_read_elsewhere_too_stays_whole() -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    sums = _up(rows)
    active = ops.gelu(sums, "erf")
    for other in (sums, active):
        total = ops.reduce_sum(other, ops.constant(np.array([2])), True)
        assert _stays(ops.add(_down(active), total), rows)["Gelu"] == 1


@pytest.mark.usefixtures("small_parts")
def test_a_gate_stays_whole() -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    assert _stays(_down(ops.multiply(ops.gelu(_up(rows), "erf"), _up(rows))), rows)["Gelu"] == 1
