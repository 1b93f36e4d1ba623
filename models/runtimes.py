"""Which runtime a model gets: OpenVINO on a CPU, packed batches on a GPU, torch for what these can't run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from models.types import BiEncoder, ModelError, ModelOptions, Reranker

log = structlog.get_logger()

_ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Without one of these (NVIDIA, AMD, Windows' subsystem) a Linux machine has no GPU that torch could use."""

Runtime = Literal["torch", "openvino", "packed"]

_HOW = {"openvino": "in OpenVINO", "packed": "packed"}
_SLOWER = {
    "openvino": "model runs in torch, which is slower on a CPU",
    "packed": "model runs with padding, which is slower on a GPU",
}

Opened = TypeVar("Opened", BiEncoder, Reranker)


def choose(name: str, options: ModelOptions, ways: Mapping[Runtime, Callable[[], Opened]]) -> Opened:
    """The model in the runtime that is asked for, or in the best that can run it; torch in its place is told."""
    best = _best(options)
    if best != "openvino":
        refuse_int8(name, options)
    if best == "torch":
        return ways["torch"]()
    try:
        return _open(best, options, ways[best])
    except Unavailable as error:
        if options.runtime == best:
            raise ModelError(
                f"{name} can't run {_HOW[best]}: {error}. Let the runtime be `auto` or `torch`."
            ) from error
        refuse_int8(name, options)
        log.warning(_SLOWER[best], model=name, reason=str(error))
        return ways["torch"]()


def refuse_but_torch(name: str, options: ModelOptions, what: str) -> None:
    """For models that torch alone can run, and with padding."""
    if options.runtime not in ("auto", "torch"):
        how = _HOW[options.runtime]
        raise ModelError(f"{name} can't run {how}: {what} needs torch. Let the runtime be `auto` or `torch`.")


def refuse_int8(name: str, options: ModelOptions) -> None:
    """For what torch is to run."""
    if options.precision == "int8":
        raise ModelError(f"{name} can't run in int8, which OpenVINO on a CPU alone does: let the precision be `auto`.")


class Unavailable(Exception):
    """Why a runtime can't run a model here; torch may."""


def _best(options: ModelOptions) -> Runtime:
    if options.runtime != "auto":
        return options.runtime
    if _on_cpu(options.device):
        return "openvino"
    from models.torch_device import find_device

    return "packed" if find_device(options.device).type == "cuda" else "torch"


def _open(runtime: Runtime, options: ModelOptions, way: Callable[[], Opened]) -> Opened:
    if runtime == "openvino" and not _on_cpu(options.device):
        raise Unavailable(f"it runs on a CPU alone, and the device is {options.device}")
    if runtime == "openvino" and find_spec("openvino") is None:
        raise Unavailable("openvino is not installed")
    return way()


def _on_cpu(device: str) -> bool:
    """Whether models run on the CPU. Torch is asked only where it might know of something better."""
    if device != "auto":
        return device == "cpu"
    if sys.platform == "linux" and not any(Path(sign).exists() for sign in _ACCELERATORS):
        return True
    from models.torch_device import find_device

    return find_device(device).type == "cpu"
