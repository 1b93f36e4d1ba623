"""A network as a CPU computes it faster in bfloat16, above all with a matrix unit: the same sums, cut otherwise.

What comes out differs as rounding does from one order of a sum to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.layers import is_layer, rows_of
from models.quiet_openvino import openvino

_OPS = openvino.opset15

PART = 512
"""Of the numbers between two layers so many at once: those of a micro-batch stay in a core's cache until they are read,
where all 1,536 of a small transformer do not."""

_MOVING = {"Reshape", "Transpose"}
"""Operations that put numbers elsewhere and leave them as they are."""


def recut(network: Any) -> Any:
    """A copy of it."""
    copy = network.clone()
    for node in copy.get_ordered_ops():
        if _is_plain_attention(node):
            _spell_out(node)
        elif node.get_type_name() == "Gelu":
            _divide(node)
    copy.validate_nodes_and_infer_types()
    return copy


def _is_plain_attention(node: Any) -> bool:
    """With a mask that is added, and a scale that is given, as converted models have it."""
    return (
        node.get_type_name() == "ScaledDotProductAttention"
        and not node.get_attributes()["causal"]
        and node.get_input_size() == 5
        and node.get_input_element_type(3) == node.get_input_element_type(0)
    )


def _spell_out(attention: Any) -> None:
    """As products of matrices: OpenVINO makes of the one operation a pass to scale and one to turn keys as well."""
    asked = attention.input(0)
    while (moving := asked.get_source_output().get_node()).get_type_name() in _MOVING and _only_reader(moving):
        asked = moving.input(0)
    scaled = _OPS.multiply(
        asked.get_source_output(), attention.input_value(4)
    )  # OpenVINO puts it into a layer's weights
    asked.replace_source_output(scaled.output(0))
    query, key, value, mask, _ = attention.input_values()
    likeness = _OPS.add(_OPS.matmul(query, _turned_once(key), False, True), mask)
    _replace(attention, _OPS.matmul(_OPS.softmax(likeness, -1), value, False, False))


def _turned_once(made: Any) -> Any:
    """What is turned twice in a row, turned once: OpenVINO would do one of the two with the product, and make a pass of
    the other."""
    last = made.get_node()
    if not _turns(last) or not _turns(first := last.input_value(0).get_node()):
        return made
    inner, outer = (each.input_value(1).get_node().data for each in (first, last))
    return _OPS.transpose(first.input_value(0), _OPS.constant(inner[outer])).output(0)


def _turns(node: Any) -> bool:
    kinds = [each.get_type_name() for each in (node, *(value.get_node() for value in node.input_values()[1:]))]
    return kinds == ["Transpose", "Constant"]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A product with weights, and what is added to it."""

    coming: Any
    rows: NDArray[np.float32]
    """Of weights, one for each number that comes out."""
    bias: NDArray[np.float32]
    sum: Any

    @classmethod
    def that_ends_in(cls, node: Any) -> Self | None:
        if node.get_type_name() != "Add":
            return None
        product, bias = node.input_value(0).get_node(), node.input_value(1).get_node()
        if not is_layer(product) or not _only_reader(product) or bias.get_type_name() != "Constant":
            return None
        return cls(product.input_value(0), rows_of(product), np.asarray(bias.data, np.float32), node)


def _divide(activation: Any) -> None:
    """Two layers with an activation between them, as pairs of narrower ones whose results are added."""
    wide, narrow = _Layer.that_ends_in(activation.input_value(0).get_node()), _layer_behind(activation)
    if not wide or not narrow or not _only_reader(wide.sum) or wide.bias.shape[-1:] != wide.rows.shape[:1]:
        return
    mode = activation.get_attributes()["approximation_mode"].lower()
    made = _constant(narrow.bias)
    for part in np.array_split(np.arange(len(wide.rows)), ceil(len(wide.rows) / PART)):
        inner = _OPS.add(_product(wide.coming, wide.rows[part]), _constant(wide.bias[..., part]))
        made = _OPS.add(_product(_OPS.gelu(inner, mode), narrow.rows[:, part]), made)
    _replace(narrow.sum, made)


def _layer_behind(node: Any) -> _Layer | None:
    """The layer that alone reads what an operation makes."""
    product = _only_reader(node)
    end = product and _only_reader(product)
    layer = end and _Layer.that_ends_in(end)
    return layer if layer and layer.coming.get_node().get_name() == node.get_name() else None


def _product(coming: Any, rows: NDArray[np.float32]) -> Any:
    return _OPS.matmul(coming, _constant(rows), False, True)


def _constant(value: NDArray[np.float32]) -> Any:
    return _OPS.constant(np.ascontiguousarray(value))


def _only_reader(node: Any) -> Any:
    """The operation that reads what this one makes, if there is just one."""
    readers = [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]
    return readers[0] if len(readers) == 1 else None


def _replace(node: Any, by: Any) -> None:
    by.set_friendly_name(node.get_friendly_name())
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(by.output(0))
