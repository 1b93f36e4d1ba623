"""Which runtime a model gets: OpenVINO on a CPU for what it can convert, torch for everything else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import structlog

from models.types import BiEncoder, ModelError, ModelOptions, Reranker

log = structlog.get_logger()

_ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Without one of these (NVIDIA, AMD, Windows' subsystem) a Linux machine has no GPU that torch could use."""

Opened = TypeVar("Opened", BiEncoder, Reranker)


def choose(
    name: str, options: ModelOptions, in_openvino: Callable[[], Opened], in_torch: Callable[[], Opened]
) -> Opened:
    """The model in the runtime that is asked for, or in the best that can run it; torch in OpenVINO's place is told."""
    if options.runtime == "torch" or (options.runtime == "auto" and not _on_cpu(options.device)):
        refuse_int8(name, options)
        return in_torch()
    try:
        return _open(options, in_openvino)
    except Unavailable as error:
        if options.runtime == "openvino":
            raise ModelError(f"{name} can't run in OpenVINO: {error}. Let the runtime be `auto` or `torch`.") from error
        refuse_int8(name, options)
        log.warning("model runs in torch, which is slower on a CPU", model=name, reason=str(error))
        return in_torch()


def refuse_openvino(name: str, options: ModelOptions, what: str) -> None:
    """For models that torch alone can run."""
    if options.runtime == "openvino":
        raise ModelError(f"{name} can't run in OpenVINO: {what} needs torch. Let the runtime be `auto` or `torch`.")


def refuse_int8(name: str, options: ModelOptions) -> None:
    """For what torch is to run."""
    if options.precision == "int8":
        raise ModelError(f"{name} can't run in int8, which OpenVINO on a CPU alone does: let the precision be `auto`.")


class Unavailable(Exception):
    """Why OpenVINO can't run a model here; torch may."""


def _open(options: ModelOptions, in_openvino: Callable[[], Opened]) -> Opened:
    if not _on_cpu(options.device):
        raise Unavailable(f"it runs on a CPU alone, and the device is {options.device}")
    if find_spec("openvino") is None:
        raise Unavailable("openvino is not installed")
    return in_openvino()


def _on_cpu(device: str) -> bool:
    """Whether models run on the CPU. Torch is asked only where it might know of something better."""
    if device != "auto":
        return device == "cpu"
    if sys.platform == "linux" and not any(Path(sign).exists() for sign in _ACCELERATORS):
        return True
    from models.torch_runtime import find_device

    return find_device(device).type == "cpu"
