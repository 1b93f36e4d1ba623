"""A network whose answer is read off the first token computes no other token in its last layer.

A cross-encoder's score, and the vector of an encoder that takes its first token's, stay what they are for less work: of
the last layer only keys and values are for all tokens. Of six layers that is a seventh of the whole.
"""

from __future__ import annotations

from typing import Any

from models.quiet_openvino import openvino

_OPS = openvino.opset15

_UNARY = {"Convert", "Erf", "Exp", "Gelu", "HSwish", "Mish", "Relu", "Sigmoid", "Sqrt", "SoftPlus", "Swish", "Tanh"}
_ELEMENTWISE = {"Add", "Divide", "Maximum", "Minimum", "Multiply", "Power", "Select", "SquaredDifference", "Subtract"}

Axes = list[int | None]
"""For each input of an operation the axis along which its first row is enough; None where all of it is read."""


def narrow(network: Any) -> None:
    """Cuts off, as early as can be, all rows but the first where nobody reads the others."""
    operations = network.get_ordered_ops()
    axes: dict[str, Axes] = {}
    for node in reversed(operations):  # whoever reads a result comes after it
        if found := _picks(node) or _needs(node, _asked(node, axes)):
            axes[node.get_name()] = found
    for node in operations:
        if node.get_name() in axes and not _picks(node):
            _cut_inputs(node, axes)
    network.validate_nodes_and_infer_types()


def _picks(node: Any) -> Axes:
    """What is read of its inputs by an operation that takes the first row of something; nothing if it is another."""
    if node.get_type_name() != "Gather" or node.get_attributes()["batch_dims"]:
        return []
    row, axis = _constant(node, 1), _constant(node, 2)
    return [axis[0], None, None] if row == [0] and axis and axis[0] >= 0 else []


def _asked(node: Any, axes: dict[str, Axes]) -> int | None:
    """The axis along which all who read it read its first row alone."""
    found = set()
    for reader in (reader for output in node.outputs() for reader in output.get_target_inputs()):
        reads = axes.get(reader.get_node().get_name())
        found.add(reads[reader.get_index()] if reads else None)
    return found.pop() if len(found) == 1 else None


def _needs(node: Any, axis: int | None) -> Axes:
    """What is read of its inputs by an operation whose first row alone is asked for; nothing if that can't be told."""
    if axis is None or node.get_output_partial_shape(0).rank.is_dynamic:
        return []
    rank, attributes = len(node.get_output_partial_shape(0)), node.get_attributes()
    match node.get_type_name():
        case kind if kind in _UNARY:
            return [axis]
        case kind if kind in _ELEMENTWISE:
            return [_aligned(node, index, axis - rank) for index in range(node.get_input_size())]
        case "MVN" if (over := _constant(node, 1)) and not {axis, axis - rank} & {*over}:
            return [axis, None]
        case "Split" | "VariadicSplit" if (along := _constant(node, 1)) and not {axis, axis - rank} & {*along}:
            return [axis, *[None] * (node.get_input_size() - 1)]
        case "Softmax" if attributes["axis"] % rank != axis:
            return [axis]
        case "MatMul" if axis == rank - 2 and not attributes["transpose_a"]:
            return [axis, None]
        case "ScaledDotProductAttention" if axis == rank - 2 and not attributes["causal"]:
            mask = [_aligned(node, index, -2) for index in range(3, min(node.get_input_size(), 4))]
            return [axis, None, None, *mask, *[None] * (node.get_input_size() - 4)]
        case "Transpose" if order := _constant(node, 1):
            return [order[axis], None]
        case "Reshape" if attributes["special_zero"] and not any((_constant(node, 1) or [1])[: axis + 1]):
            return [axis, None]
    return []


def _aligned(node: Any, index: int, axis: int) -> int | None:
    """An input's axis that meets that axis of the output, counted from the last; None if all rows share it."""
    shape = node.get_input_partial_shape(index)
    if shape.rank.is_dynamic or len(shape) < -axis or shape[axis] == 1:
        return None
    return len(shape) + axis


def _cut_inputs(node: Any, axes: dict[str, Axes]) -> None:
    """Gives it the first row of what it reads, where that is not all there is of it by now."""
    for index, axis in enumerate(axes[node.get_name()]):
        source = node.input_value(index)
        if axis is not None and source.get_node().get_name() not in axes:
            first = _OPS.gather(source, _OPS.constant([0]), _OPS.constant(axis))
            node.input(index).replace_source_output(first.output(0))


def _constant(node: Any, index: int) -> list[int] | None:
    """The numbers that an input always has."""
    source = node.input_value(index).get_node()
    return source.data.reshape(-1).tolist() if source.get_type_name() == "Constant" else None
