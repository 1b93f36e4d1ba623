"""What the gauges of a collection say, and when they say nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.quality.observe import drift
from app.quality.observe.depth import Sounding
from app.quality.observe.drift import WINDOW, DriftWatch
from app.quality.observe.recall import RecallWatch
from app.quality.observe.types import LEAST
from app.quality.observe.watched import Watched
from app.telemetry import Metrics
from app.witness import Beside, Sighting
from tests.app.quality.observe.test_lift import sighting


@pytest.fixture
def watched(metrics: Metrics) -> Watched:
    return Watched("docs", 1, RecallWatch(0.98, 16, tuned=True), DriftWatch(), 128, metrics)


def shown(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"collection": "docs", **labels})


def scoring(draw: np.random.Generator, mean: float) -> Sighting:
    found = sighting(12, candidates=12)
    return replace(found, hits=[replace(hit, score=float(draw.normal(mean, 1))) for hit in found.hits])


def test_gauges_that_alerts_go_by_wait_for_as_many_searches_as_findings_do(metrics: Metrics, watched: Watched) -> None:
    names = {"winnow_ann_recall": {"k": "10"}, "winnow_ann_recall_high": {"k": "10"}, "winnow_depth_missed_share": {}}
    for _ in range(LEAST - 1):
        watched.compared(Beside("compared", {16: {10: 0.8}}))
        watched.sounded(Sounding(10, 10, 40, (*range(1, 10), 12), 1))
    watched.tell()
    assert [shown(metrics, name, **labels) for name, labels in names.items()] == [None, None, None]
    watched.compared(Beside("compared", {16: {10: 0.8}}))
    watched.sounded(Sounding(10, 10, 40, (*range(1, 10), 12), 1))
    watched.tell()
    assert shown(metrics, "winnow_ann_recall", k="10") == pytest.approx(0.8)
    assert shown(metrics, "winnow_depth_missed_share") == 1


def test_recall_of_an_effort_that_is_no_more_is_shown_no_more(metrics: Metrics, watched: Watched) -> None:
    for _ in range(LEAST):
        watched.compared(Beside("compared", {16: {10: 0.8}}))
    watched.tell()
    assert watched.recall.retuned()
    watched.compared(Beside("compared", {32: {10: 1.0}}))
    watched.tell()
    assert shown(metrics, "winnow_ann_recall_high", k="10") is None


def test_drift_is_gone_with_the_reference_that_it_was_from(metrics: Metrics, watched: Watched) -> None:
    draw = np.random.default_rng(0)
    for mean in [0.0] * WINDOW + [5.0] * drift.LEAST:
        watched.note(scoring(draw, mean))
    watched.tell()
    assert shown(metrics, "winnow_drift", signal="top_score") == pytest.approx(1, abs=0.1)
    assert watched.refer()
    watched.tell()
    assert shown(metrics, "winnow_drift", signal="top_score") is None
    assert shown(metrics, "winnow_drift_null", signal="top_score") is None
    for _ in range(drift.LEAST):
        watched.note(scoring(draw, 5.0))
    watched.tell()
    found = shown(metrics, "winnow_drift", signal="top_score")
    assert found is not None
    assert found < 0.3
