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
    if hasattr(config, "workerinput"):
        _share_the_machine(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    if config.pluginmanager.has_plugin("cacheprovider"):
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("xdg"))


def _share_the_machine(workers: int) -> None:
    """Each process takes its part of the cores: torch is several times slower where there are too many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))
    os.environ.pop("COLUMNS", None)  # a worker is told of a terminal of 80 columns, and rich would keep to it for good


def pytest_unconfigure(config: pytest.Config) -> None:
    """Tiny models have another vocabulary in every run, so that nobody would find their conversions again."""
    if hasattr(config, "workerinput"):
        return  # a worker that ends first would take them from the others
    if config.pluginmanager.has_plugin("cacheprovider"):
        for network in Path(config.cache.mkdir("xdg")).glob("winnow/openvino/*/network.bin"):
            if network.stat().st_size < TINY_BYTES:
                shutil.rmtree(network.parent, ignore_errors=True)
