from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.device import Device
from app.telemetry import Metrics
from tests.app.batching import open_device
from tests.app.serving import Service, fakes, listening, serving


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with fake models, ready, and its default collection empty."""
    async with serving(fakes(tmp_path)) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a service on a real socket."""
    with listening(fakes(tmp_path)) as client:
        yield client


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device() as device:
        yield device
