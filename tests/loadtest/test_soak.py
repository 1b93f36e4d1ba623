"""The soak in short: what it takes for growth, and that all of its traffic is answered."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from loadtest import soak
from loadtest.growth import Measure, trend
from loadtest.process import Process

MINUTES = [minute / 8 for minute in range(240)]
MEMORY = Measure("memory", "MB", 0.03, 8.0)


def noise(size: float = 5.0) -> list[float]:
    chance = random.Random(1)
    return [300 + chance.gauss(0, size) for _ in MINUTES]


def test_noise_and_saw_teeth_and_a_warm_up_are_flat() -> None:
    for values in (
        noise(),
        [value + (number % 40) for number, value in enumerate(noise())],
        [min(value, 200 + 4 * number) for number, value in enumerate(noise())],
    ):
        assert not trend(MEMORY, MINUTES, values).grows


@pytest.mark.parametrize("a_minute", [0.5, 2.0])
def test_a_leak_grows_whatever_the_noise(a_minute: float) -> None:
    values = [value + a_minute * minute for minute, value in zip(MINUTES, noise(), strict=True)]
    found = trend(MEMORY, MINUTES, values)
    assert found.grows
    assert found.slope == pytest.approx(a_minute, abs=0.15)
    assert "memory GROWS" in str(found)


def test_growth_that_would_not_matter_is_borne() -> None:
    values = [value + 0.1 * minute for minute, value in zip(MINUTES, noise(0.1), strict=True)]
    found = trend(MEMORY, MINUTES, values)
    assert found.low > 0
    assert not found.grows


@pytest.mark.parametrize(
    ("minutes", "left_out", "lost", "bad"),
    [(30, 0, 0, True), (30, 9, 0, True), (30, 11, 0, False), (2, 0, 0, False), (2, 11, 1, True)],
)
def test_growth_counts_in_a_run_that_was_long_enough_and_that_the_service_kept_up_with(
    minutes: int, left_out: int, lost: int, bad: bool
) -> None:
    at = [minutes * number / 240 for number in range(1, 241)]
    values = {measure.name: [100.0 + 10 * each for each in range(240)] for measure in soak.MEASURES}
    failures = {"search lost": lost} if lost else {}
    run = soak.Run(at, values, {"search 200": 1000}, failures, left_out)
    assert any(each.grows for each in run.trends())
    assert run.is_bad(run.trends()) is bad
    assert ("Growth is not judged" in soak.report("", run, run.trends())) is (minutes == 2 or left_out > 10)


def test_a_soak_that_could_not_be_sampled_to_its_end_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(folder: Path) -> int:
        raise PermissionError(folder)

    monkeypatch.setattr(soak, "folder_bytes", unreadable)
    with Process(tmp_path, **(soak.SETTINGS | soak.MODELS["fake"])) as service:
        service.await_ready()
        with pytest.raises(PermissionError):
            asyncio.run(soak.soak(service, tmp_path, minutes=0.02, rate=5, seed=3, documents=20))


def test_some_seconds_of_all_that_a_soak_does(tmp_path: Path) -> None:
    with Process(tmp_path, **(soak.SETTINGS | soak.MODELS["fake"])) as service:
        service.await_ready()
        run = asyncio.run(soak.soak(service, tmp_path, minutes=0.05, rate=30, seed=3, documents=100))
        held = service.client.get("/collections").json()
        assert service.stop() == 0
    assert not run.failures
    assert {name.split()[0] for name in run.statuses} >= {"search", "replace", "delete", "stream", "upload", "leave"}
    assert [(each["name"], each["documents"]) for each in held["collections"]] == [("default", 106)]
    assert min(run.values["memory"]) > 10
    assert min(run.values["tasks"]) > 0
    told = soak.page("some seconds", run.trends())
    assert told.count("<svg") == len(soak.MEASURES)
