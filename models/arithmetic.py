"""What a CPU computes faster in. It may have instructions for bfloat16 and be slower with them than without:
an AMD EPYC takes half of the time, an Intel Xeon whose matrix unit is not given to guests nearly twice as long.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter

import numpy as np

from models.quiet_openvino import core, openvino

_ROWS, _WIDTH, _INNER, _LAYERS = 128, 384, 1536, 2
"""Of the products that are tried: those of a small transformer."""

_TRIES = 5
"""The fastest counts, since others slow some down."""


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for it."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def prefers_bfloat16() -> bool:
    """Whether it is faster with them, as tried once in a process; that takes a fifth of a second."""
    return computes_bfloat16() and seconds("bf16") < seconds("f32")


def seconds(hint: str) -> float:
    """What some products of matrices take on one core."""
    ops, draw = openvino.opset15, np.random.default_rng(1)
    given = ops.parameter([_ROWS, _WIDTH], np.float32)
    made = given
    for shape in [(_WIDTH, _INNER), (_INNER, _WIDTH)] * _LAYERS:
        weights = ops.constant(draw.normal(0, 0.05, shape).astype(np.float32))
        made = ops.relu(ops.matmul(made, weights, False, False))
    properties = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    request = core().compile_model(openvino.Model([made], [given], "trial"), "CPU", properties).create_infer_request()
    rows = draw.normal(0, 1, (_ROWS, _WIDTH)).astype(np.float32)
    times = []
    for _ in range(_TRIES):
        began = perf_counter()
        request.infer([rows])
        times.append(perf_counter() - began)
    return min(times)
