"""What nobody reads is not computed, and what is read stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import convert
from models.converted import Converted, Source
from models.first_token import narrow
from models.network import Network
from models.quiet_openvino import core, openvino
from models.types import NO_PROMPTS, ModelOptions
from tests.models import tiny

EXACT = ModelOptions(precision="float32", runtime="openvino")
ops = openvino.opset15


def converted(folder: str, monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> Converted:
    """With all tokens computed to the end, or as it serves."""
    kind = "reranker" if "reranker" in folder else "encoder"
    with monkeypatch.context() as patch:
        if whole:
            patch.setattr(convert, "narrow", lambda network: None)
        return convert.convert(Source(folder, Path(folder), kind, EXACT, NO_PROMPTS))  # type: ignore[arg-type]


def multiplications(model: Any) -> int:
    """By matrices, for two texts of 32 tokens."""
    network = model.clone()
    network.reshape({index: [2, 32] for index in range(len(network.inputs))})
    products = [node for node in network.get_ops() if node.get_type_name() == "MatMul"]
    return sum(int(np.prod(node.output(0).shape)) * node.input(0).get_shape()[-1] for node in products)


WIDE, INNER, TOKENS = 32, 48, 2 * 32
"""Numbers for each token in the tiny models, and how many tokens are counted."""


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_the_last_layer_of_a_reranker_makes_keys_and_values_of_all_tokens_and_the_rest_of_one(
    rerankers: dict[str, str], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    all_of_it, less = (converted(rerankers[family], monkeypatch, whole=whole) for whole in (True, False))
    spared = TOKENS - 2
    query_and_output, feed_forward = 2 * WIDE * WIDE, 2 * WIDE * INNER
    saved = multiplications(all_of_it.network) - multiplications(less.network)
    assert saved == spared * (query_and_output + feed_forward)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_stay_what_they_were(rerankers: dict[str, str], monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    all_of_it, less = (converted(rerankers[family], monkeypatch, whole=whole) for whole in (True, False))
    assert multiplications(less.network) < 0.7 * multiplications(all_of_it.network)
    np.testing.assert_allclose(_answers(less), _answers(all_of_it), atol=1e-6)


def test_so_does_an_encoder_that_takes_the_first_token(
    encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_it, less = (converted(encoders["xlm-roberta"], monkeypatch, whole=whole) for whole in (True, False))
    assert multiplications(less.network) < 0.7 * multiplications(all_of_it.network)
    np.testing.assert_allclose(_answers(less), _answers(all_of_it), atol=1e-6)


@pytest.mark.parametrize("family", [family for family in tiny.ENCODERS if family != "xlm-roberta"])
def test_an_encoder_that_reads_all_tokens_computes_them_all(
    encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    all_of_it, same = (converted(encoders[family], monkeypatch, whole=whole) for whole in (True, False))
    assert multiplications(same.network) == multiplications(all_of_it.network)
    np.testing.assert_array_equal(_answers(same), _answers(all_of_it))


def _answers(model: Converted) -> np.ndarray[Any, np.dtype[np.float32]]:
    return Network(model.network, model.facts.padding, model.facts.limit, EXACT).run(model.facts.tokens())


WIDTH = 6
ROWS = np.arange(2 * 5 * WIDTH, dtype=np.float32).reshape(2, 5, WIDTH) % 7 - 3
SQUARE = (np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH) % 5 - 2) / 4


def _constant(*numbers: int) -> Any:
    return ops.constant(np.array(numbers, np.int64))


def _heads(of: Any) -> Any:
    return ops.transpose(ops.reshape(of, _constant(0, 0, 2, WIDTH // 2), True), _constant(0, 2, 1, 3))


def _attention(of: Any, *, causal: bool = False) -> Any:
    across = ops.scaled_dot_product_attention(_heads(of), _heads(ops.relu(of)), _heads(of), causal=causal)
    return ops.reshape(ops.transpose(across, _constant(0, 2, 1, 3)), _constant(0, 0, WIDTH), True)


def _similarity(of: Any) -> Any:
    alike = ops.softmax(ops.matmul(of, of, False, True), 2)
    return ops.matmul(alike, of, False, False)


def _gated(of: Any) -> Any:
    one, other = ops.split(of, ops.constant(2), 2).outputs()
    return ops.concat([ops.multiply(one, ops.tanh(other)), other], 2)


STEPS: dict[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "bias": lambda of: ops.add(of, ops.constant(SQUARE[0])),
    "a number for each place": lambda of: ops.multiply(of, ops.constant(ROWS[:1] / 3)),
    "dense": lambda of: ops.matmul(of, ops.constant(SQUARE), False, False),
    "residual": lambda of: ops.add(of, ops.matmul(ops.relu(of), ops.constant(SQUARE), False, True)),
    "norm of each row": lambda of: ops.mvn(of, _constant(-1), True, 1e-5, "inside_sqrt"),
    "norm over all rows": lambda of: ops.mvn(of, _constant(1), True, 1e-5, "inside_sqrt"),
    "softmax of each row": lambda of: ops.softmax(of, -1),
    "softmax over all rows": lambda of: ops.softmax(of, 1),
    "mean of all rows": lambda of: ops.subtract(of, ops.reduce_mean(of, _constant(1), True)),
    "attention": _attention,
    "attention to what comes before": lambda of: _attention(of, causal=True),
    "attention in its parts": _similarity,
    "gate": _gated,
    "there and back": lambda of: ops.transpose(
        ops.relu(ops.transpose(of, _constant(2, 0, 1))), _constant(1, 2, 0)
    ),
    "rows in another order": lambda of: ops.gather(of, _constant(4, 2, 0, 1, 3), ops.constant(1)),
    "rows as numbers and back": lambda of: ops.reshape(
        ops.relu(ops.reshape(of, _constant(0, 5 * WIDTH), True)), _constant(0, 5, WIDTH), True
    ),
}  # fmt: skip


@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6), row=st.sampled_from([0, 0, 0, 1]))
def test_whatever_comes_before_the_first_row_it_stays_the_same(steps: list[str], row: int) -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    found: Any = rows
    for step in steps:
        found = STEPS[step](found)
    picked = ops.gather(found, ops.constant(row), ops.constant(1))
    _stays(openvino.Model([ops.result(ops.multiply(picked, ops.constant(np.float32(2))))], [rows]))


def test_the_first_row_of_two_halves_together_is_more_than_the_first_row() -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    one, other, _ = ops.variadic_split(rows, ops.constant(1), _constant(2, 2, 1)).outputs()
    picked = ops.gather(ops.add(ops.relu(one), ops.tanh(other)), ops.constant(0), ops.constant(1))
    _stays(openvino.Model([ops.result(picked)], [rows]))


def _stays(network: Any) -> None:
    before = core().compile_model(network.clone(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(ROWS)[0]
    narrow(network)
    after = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(ROWS)[0]
    np.testing.assert_allclose(after, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "step", ["relu", "dense", "residual", "norm of each row", "attention", "attention in its parts"]
)
def test_a_row_that_is_read_elsewhere_too_is_computed_there(step: str) -> None:
    rows = ops.parameter([-1, -1, WIDTH], np.float32)
    found = STEPS[step](rows)
    first, total = ops.gather(found, ops.constant(0), ops.constant(1)), ops.reduce_sum(found, _constant(1), False)
    network = openvino.Model([ops.result(ops.concat([first, total], 1))], [rows])
    operations = len(network.get_ops())
    narrow(network)
    assert len(network.get_ops()) == operations
