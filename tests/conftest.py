from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "winnow", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("winnow")

TINY_BYTES = 5_000_000


def pytest_configure(config: pytest.Config) -> None:
    """Converted models are kept with pytest's own cache: the next run finds them, and the user's are left alone."""
    if config.cache:
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("xdg"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Tiny models have another vocabulary in every run, so that nobody would find their conversions again."""
    if config.cache:
        for network in Path(config.cache.mkdir("xdg")).glob("winnow/openvino/*/network.bin"):
            if network.stat().st_size < TINY_BYTES:
                shutil.rmtree(network.parent, ignore_errors=True)
