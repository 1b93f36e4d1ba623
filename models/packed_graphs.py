"""Forward passes that are recorded once for each shape of batch, and replayed.

The device is then told of all kernels at once. Of a small model they take less time than it takes to tell of them one
by one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor

from models.packed_batch import Shape
from models.proof import TOLERANCES, distance

log = structlog.get_logger()

MOST_GRAPHS = 64
"""Of one model. Each takes memory of the driver's; shapes that come when there are so many are computed as they are."""

_WARM_UPS = 3

Made = tuple[Tensor, ...]
"""A row for each text; and perhaps one for each token, in the order in which they lie."""

Forward = Callable[[Tensor, Shape], Made]
"""From an array of numbers, on the device, to what a model makes of them."""

_CAPTURING = Lock()
"""A process may record one at a time."""


class Recording(Protocol):
    """A forward pass of one shape."""

    def replay(self, numbers: Tensor) -> Made:
        """Rows for all texts and tokens of the shape. They are the caller's until the next replay."""


Record = Callable[[Forward, Tensor, Shape], Recording]


class Graphs:
    """A model's recordings. A shape is recorded when it comes for the second time, and compared with what is known."""

    def __init__(self, name: str, forward: Forward, record: Record) -> None:
        self._name, self._forward, self._record = name, forward, record
        self._recordings: dict[Shape, Recording] = {}
        self._seen: set[Shape] = set()
        self._broken = False

    def __len__(self) -> int:
        return len(self._recordings)

    def get(self, shape: Shape) -> Recording | None:
        return self._recordings.get(shape)

    def offer(self, shape: Shape, numbers: Callable[[], Tensor], made: Made) -> None:
        """What a batch of that shape gave, which a recording has to give as well."""
        if self._broken or len(self) >= MOST_GRAPHS:
            return
        if shape not in self._seen:
            self._seen.add(shape)
            return
        try:
            self._recordings[shape] = self._checked(shape, numbers(), made)
        except Exception as error:  # capturing runs a model's own code, which may do what can't be captured
            self._broken = True
            reason = (str(error) or repr(error)).splitlines()[0]
            log.warning("model runs without CUDA graphs, which is slower", model=self._name, reason=reason)

    def _checked(self, shape: Shape, numbers: Tensor, made: Made) -> Recording:
        recording, most = self._record(self._forward, numbers, shape), TOLERANCES["bfloat16"]
        for again, rows in zip(recording.replay(numbers), made, strict=True):
            far = distance(_array(again[: len(rows)]), _array(rows))
            if not far <= most:
                raise ValueError(f"replayed, a batch differs by {far:.2g}, where {most:.2g} is allowed")
        return recording


def _array(rows: Tensor) -> Any:
    """In which vectors have unit length."""
    numbers = rows.float()
    return (numbers if numbers.shape[1] == 1 else numbers / numbers.norm(dim=1, keepdim=True)).cpu().numpy()


class Recorder:
    """Records on a GPU. What all recordings of a model need in passing, they have in the same memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, forward: Forward, numbers: Tensor, shape: Shape) -> Recording:
        with _CAPTURING, torch.cuda.device(self._device):
            given = numbers.to(self._device)
            self._warm_up(forward, given, shape)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                made = forward(given, shape)
        return _Graph(graph, given, made)

    def _warm_up(self, forward: Forward, given: Tensor, shape: Shape) -> None:
        """What libraries set up at their first call can't be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                forward(given, shape)
        torch.cuda.current_stream().wait_stream(self._stream)


class _Graph:
    """Kernels that read and write the same memory each time."""

    def __init__(self, graph: torch.cuda.CUDAGraph, given: Tensor, made: Made) -> None:
        self._graph, self._given, self._made = graph, given, made

    def replay(self, numbers: Tensor) -> Made:
        self._given.copy_(numbers, non_blocking=True)
        self._graph.replay()
        return self._made
