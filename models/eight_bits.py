"""A network with its large layers in 8 bits: faster by a quarter or more, and not quite the same.

What comes into such a layer is rounded as well as its weights: by the ranges that it was met in beforehand, where these
are known, which is faster again by a tenth or more; elsewhere by what each text brings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.folder import RANGES_FILE
from models.layers import is_layer, is_transposed, rows_of, weights_of
from models.quiet_openvino import openvino
from models.runtimes import Unavailable
from models.types import ModelError

_OPS = openvino.opset15

SMALLEST = 64
"""A layer with fewer numbers on either side gains nothing: a head that makes one score of a text stays exact."""

GROUP = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}
"""Without ranges, what comes into a layer is rounded by the largest of so many numbers. Fewer of them round less, and
cost more; without this the weights are taken for full ones, which is slower than before."""

BORNE = 0.8
"""Of how much places of what comes in differ in size, the share that weights bear in its stead: a few are ten times as
large as others, and would leave those nothing of a byte. Of .5 to .9 this changes the embedded reranker's scores the
least."""

_TINY = 1e-5

Ranges = Mapping[str, NDArray[np.float32]]
"""By layer: in a first row the lowest, in a second one the highest number met at each place of what comes into it."""


def quantized(network: Any, ranges: Ranges | None = None) -> Any:
    """A copy of it. Each row of weights has a scale of its own."""
    copy = network.clone()
    for layers in _by_input(copy):
        if ranges is None:
            for layer in layers:
                layer.input(1).replace_source_output(_rounded(weights_of(layer), is_transposed(layer)).output(0))
        else:
            _round_all(layers, ranges)
    copy.validate_nodes_and_infer_types()
    return copy


def watched(network: Any) -> tuple[Any, list[str]]:
    """A copy of it with what comes into each of those layers as further outputs, and the layers' names."""
    copy = network.clone()
    firsts = [layers[0] for layers in _by_input(copy)]
    copy.add_outputs([layer.input_value(0) for layer in firsts])
    return copy, [_name(layer) for layer in firsts]


def read_ranges(path: Path) -> Ranges | None:
    """Those that lie beside a model's weights, if they do."""
    file = path / RANGES_FILE
    if not file.is_file():
        return None
    try:
        return {name: rows.astype(np.float32) for name, rows in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} is damaged: fetch the model again, or remove that file. {error!r}") from error


def _round_all(layers: Sequence[Any], ranges: Ranges) -> None:
    """Layers into which the same comes."""
    weights = [rows_of(layer) for layer in layers]
    low, high = _range(layers, weights[0].shape[1], ranges)
    size = _size([low, high]) ** BORNE / _size(weights) ** (1 - BORNE)
    size /= np.exp(np.log(size).mean())
    evened = _OPS.multiply(layers[0].input_value(0), _constant(1 / size[None]))
    coming = _within(evened.output(0), (low / size).min(), (high / size).max(), 256)
    for layer, rows in zip(layers, weights, strict=True):
        most = np.maximum(np.abs(rows * size).max(axis=1, keepdims=True), _TINY)
        turned = [each if is_transposed(layer) else each.T for each in (rows * size, most)]
        layer.input(0).replace_source_output(coming.output(0))
        layer.input(1).replace_source_output(_within(_constant(turned[0]), -turned[1], turned[1], 255).output(0))


def _range(layers: Sequence[Any], width: int, ranges: Ranges) -> NDArray[np.float32]:
    found = next((ranges[name] for layer in layers if (name := _name(layer)) in ranges), None)
    if found is None or found.shape != (2, width) or not np.isfinite(found).all() or (found[0] > found[1]).any():
        raise Unavailable(f"its {RANGES_FILE} does not fit it: `winnow train rounding` makes one that does")
    return found


def _size(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Of the numbers at each place, the largest."""
    largest: NDArray[np.float32] = np.abs(np.vstack(rows)).max(axis=0)
    return np.maximum(largest, _TINY)


def _within(what: Any, low: Any, high: Any, steps: int) -> Any:
    """In so many steps, which OpenVINO computes with as bytes."""
    ends = (_constant(low), _constant(high))
    return _OPS.fake_quantize(what, *ends, *ends, steps)


def _constant(value: Any) -> Any:
    return _OPS.constant(np.ascontiguousarray(value, np.float32))


def _by_input(network: Any) -> Iterator[list[Any]]:
    """The large layers, together those into which the same comes."""
    found: dict[tuple[str, int], list[Any]] = {}
    for node in network.get_ordered_ops():
        if _is_large_layer(node):
            source = node.input_value(0)
            found.setdefault((source.get_node().get_friendly_name(), source.get_index()), []).append(node)
    yield from found.values()


def _is_large_layer(node: Any) -> bool:
    return is_layer(node) and min(rows_of(node).shape) >= SMALLEST


def _name(layer: Any) -> str:
    name: str = layer.get_friendly_name()
    return name


def _rounded(weights: NDArray[np.float32], transposed: bool) -> Any:
    most = np.abs(weights).max(axis=1 if transposed else 0, keepdims=True)
    scales = np.maximum(most / 127, np.finfo(np.float32).tiny)
    whole = np.round(weights / scales).astype(np.int8)
    return _OPS.multiply(_OPS.convert(_OPS.constant(whole), "f32"), _OPS.constant(scales))
