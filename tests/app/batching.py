"""A model that one can watch and hold up, on a device of its own, behind a batcher."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.batch import Lane, Ran
from app.batcher import Batcher
from app.device import Device
from app.telemetry import Metrics
from models.types import Grain, ModelError, Tokens


def text(length: int, mark: int = 0) -> Tokens:
    """A text whose value is its mark."""
    ids = np.full(length, mark, np.int32)
    return Tokens(ids, np.zeros(length, np.int32), length)


def marks(batch: Sequence[Tokens]) -> NDArray[np.float32]:
    return np.array([item.ids[0] if len(item) else -1 for item in batch], np.float32)


@dataclass
class Model:
    """Gives each text its mark, remembers its batches, and while `gate` is shut does not finish one."""

    seconds: float = 0.0
    log: list[str] = field(default_factory=list)
    name: str = "model"
    batches: list[list[Tokens]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        self.batches.append(list(batch))
        self.log.append(self.name)
        self.begun.set()
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        if any(mark < 0 for mark in marks(batch)):
            raise ModelError("a text that this model cannot bear")
        return marks(batch)

    @property
    def seen(self) -> list[int]:
        return sorted(int(mark) for batch in self.batches for mark in marks(batch))

    async def hold(self, batcher: Batcher, lane: Lane = "search") -> asyncio.Task[Ran]:
        """Keep the device busy with a first batch until the gate is opened."""
        self.gate.clear()
        self.begun.clear()
        task = asyncio.create_task(batcher.run([text(1)], lane))
        await asyncio.to_thread(self.begun.wait, 10)
        return task


@contextmanager
def open_device(bulk_share: float = 0.1, patience: float = 60.0) -> Iterator[Device]:
    device = Device("test", bulk_share, patience)
    try:
        yield device
    finally:
        device.close()


def serve(
    model: Callable[[Sequence[Tokens]], NDArray[np.float32]],
    device: Device,
    metrics: Metrics,
    name: str = "model",
    budget: int = 1000,
    bulk_budget: int = 400,
    queue: int = 5000,
    patience: float = 60.0,
    abreast: int = 1,
    ahead: int = 0,
) -> Batcher:
    return Batcher(name, model, device, metrics, budget, bulk_budget, queue, patience, Grain(abreast, ahead=ahead))


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def begin(*work: Coroutine[Any, Any, Ran]) -> list[asyncio.Task[Ran]]:
    """Start them in this order and let each come as far as its wait."""
    tasks = [asyncio.create_task(each) for each in work]
    await asyncio.sleep(0)
    return tasks
