"""What a CPU computes faster in, as tried once in a process.

It may have instructions for bfloat16 and be slower with them than without: an AMD EPYC takes half of the time, an Intel
Xeon whose matrix unit is not given to guests nearly twice as long.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from models.eight_bits import GROUP, quantized
from models.quiet_openvino import core, openvino
from models.types import Precision

_ROWS, _WIDTH, _INNER, _LAYERS = 128, 384, 1536, 2
"""Of the products that are tried: those of a small transformer."""

_TRIES = 5
"""The fastest counts, since others slow some down."""

_WORTH = 0.8
"""Of the time without: what 8 bits must take at most, since they are not quite the same."""

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for it."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def prefers_bfloat16() -> bool:
    """Whether it is faster with them; to find out takes a fifth of a second."""
    return computes_bfloat16() and seconds("bfloat16") < seconds("float32")


@cache
def prefers_eight_bits() -> bool:
    """Whether layers in 8 bits are a good deal faster than without; that takes as long."""
    try:
        return seconds("int8") < _WORTH * seconds(whole_precision())
    except RuntimeError:  # OpenVINO knows no such layers for this CPU
        return False


def whole_precision() -> Precision:
    """What is faster where nothing is rounded to 8 bits."""
    return "bfloat16" if prefers_bfloat16() else "float32"


def properties(precision: Precision) -> dict[str, Any]:
    """How OpenVINO is told of it; what is left as it was beside layers in 8 bits is computed in the faster one."""
    hint = _HINTS[whole_precision() if precision == "int8" else precision]
    return {"INFERENCE_PRECISION_HINT": hint} | (GROUP if precision == "int8" else {})


def seconds(precision: Precision) -> float:
    """What some products of matrices take on one core."""
    ops, draw = openvino.opset15, np.random.default_rng(1)
    given = ops.parameter([_ROWS, _WIDTH], np.float32)
    made = given
    for shape in [(_WIDTH, _INNER), (_INNER, _WIDTH)] * _LAYERS:
        weights = ops.constant(draw.normal(0, 0.05, shape).astype(np.float32))
        made = ops.relu(ops.matmul(made, weights, False, False))
    trial = openvino.Model([made], [given], "trial")
    told = properties(precision) | {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    compiled = core().compile_model(quantized(trial) if precision == "int8" else trial, "CPU", told)
    request = compiled.create_infer_request()
    rows = draw.normal(0, 1, (_ROWS, _WIDTH)).astype(np.float32)
    times = []
    for _ in range(_TRIES):
        began = perf_counter()
        request.infer([rows])
        times.append(perf_counter() - began)
    return min(times)
