"""The wall clock may jump, by a year and in both directions: what decides goes by another one."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from loadtest.kills import SETTINGS, Trial
from loadtest.ledger import Ledger, bodies
from loadtest.process import Process

SOURCE = Path(__file__).parent / "shifted.c"
YEAR = 365 * 24 * 3600
JUMPS = (YEAR, -YEAR, 0)
PATIENCE = 20.0


class Clock:
    """The wall clock of a process that loads the library."""

    def __init__(self, folder: Path) -> None:
        self._shift, library = folder / "shift", folder / "shifted.so"
        self.set(0)
        command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True, timeout=60)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._shift)}

    def set(self, seconds: int) -> None:
        """How far it is off from now on: the process maps the file, so it is written in place."""
        with self._shift.open("r+b" if self._shift.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    return Clock(tmp_path)


def until_changed(look: Callable[[], str], before: str) -> None:
    deadline = monotonic() + PATIENCE
    while look() == before:
        assert monotonic() < deadline, f"still {before}"
        sleep(0.05)


def snapshots(service: Process) -> str:
    lines = service.client.get("/metrics").text.splitlines()
    return next(line for line in lines if line.startswith("winnow_index_snapshots") and 'outcome="written"' in line)


def take(service: Process, ledger: Ledger, name: str) -> dict[str, Any]:
    """Some documents that can be found when this returns; the first of them as it is stored."""
    versions = {f"{name}{i}": 1 for i in range(20)}
    answer = service.client.post("/ingest", json={"documents": bodies(versions)})
    assert answer.status_code == 200, answer.text
    ledger.held |= versions
    ledger.jobs.append(answer.json()["job"])
    stored: dict[str, Any] = service.client.get(f"/documents/{name}0").json()
    return stored


def test_everything_goes_on_while_the_clock_jumps(tmp_path: Path, clock: Clock) -> None:
    ledger = Ledger("d")
    process = Process(tmp_path / "data", **SETTINGS)
    process.environment = clock.environment
    with process as service:
        service.await_ready()
        trial = Trial(service, tmp_path / "data", [ledger])
        take(service, ledger, "before")
        for place, jump in enumerate(JUMPS):
            clock.set(jump)
            written = snapshots(service)
            stored = take(service, ledger, f"jump{place}x")
            off = datetime.fromisoformat(stored["created_at"]) - datetime.now(UTC)
            assert abs(off.total_seconds() - jump) < YEAR / 2
            until_changed(lambda: snapshots(service), written)
            answer = service.client.post("/search", json={"query": "words", "candidates": 40, "deadline_ms": 5000})
            assert answer.json()["reranked"] == answer.json()["candidates"]
            assert service.client.get("/readyz").status_code == 200
            trial.check(random.Random(jump))
        clock.set(-YEAR)
        service.kill()
        service.start()
        trial.await_settled()
        trial.check(random.Random(1))
