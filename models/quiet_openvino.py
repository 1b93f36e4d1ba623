"""OpenVINO, kept from reporting its imports and conversions: it does so whenever this package can be imported."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # the import system's own way to say: not there

import openvino  # noqa: E402

__all__ = ["core", "openvino"]


@cache
def core() -> Any:
    """One for the process, that lives as long: each gives its thread a stack for signals, and takes it away when it
    ends even if another one came meanwhile. The next signal then finds no memory."""
    return openvino.Core()
