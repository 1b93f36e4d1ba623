from __future__ import annotations

from time import sleep

import pytest

from app.telemetry import Metrics, Stopwatch


def observed(metrics: Metrics, what: str, part: str, stage: str = "embed") -> float:
    labels = {"pipeline": "search", "stage": stage, "part": part}
    return metrics.registry.get_sample_value(f"winnow_stage_seconds_{what}", labels) or 0.0


def test_a_stage_is_timed_with_waiting_and_working_apart() -> None:
    metrics = Metrics()
    watch = Stopwatch(metrics, "search")
    with watch.stage("embed") as lap:
        sleep(0.02)
        lap.queued += 0.015
    assert observed(metrics, "count", "queue") == observed(metrics, "count", "compute") == 1
    assert observed(metrics, "sum", "queue") == pytest.approx(0.015)
    assert observed(metrics, "sum", "compute") == pytest.approx(watch.laps["embed"].seconds - 0.015)
    assert watch.total >= watch.laps["embed"].seconds >= 0.02


def test_a_stage_that_never_waits_has_no_queue() -> None:
    metrics = Metrics()
    with Stopwatch(metrics, "search").stage("load"):
        pass
    assert observed(metrics, "count", "queue", "load") == 0
    assert observed(metrics, "count", "compute", "load") == 1


def test_a_stage_that_is_gone_through_twice_is_added_up() -> None:
    metrics = Metrics()
    watch = Stopwatch(metrics, "search")
    for waited in (0.5, 0.25):
        with watch.stage("embed") as lap:
            lap.queued += waited
    assert list(watch.laps) == ["embed"]
    assert watch.laps["embed"].queued == 0.75
    assert observed(metrics, "count", "queue") == 2
    assert observed(metrics, "sum", "queue") == pytest.approx(0.75)


def test_a_stage_that_fails_is_timed_all_the_same() -> None:
    metrics = Metrics()
    with pytest.raises(RuntimeError), Stopwatch(metrics, "search").stage("embed"):
        raise RuntimeError
    assert observed(metrics, "count", "compute") == 1


@pytest.mark.parametrize("full", ["requests", "files"])
def test_the_first_refusal_shows_as_an_increase(full: str) -> None:
    assert Metrics().registry.get_sample_value("winnow_refusals_total", {"model": full}) == 0


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.ready.set(1)
    assert one.registry.get_sample_value("winnow_ready") == 1
    assert other.registry.get_sample_value("winnow_ready") == 0
