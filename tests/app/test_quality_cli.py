"""`winnow quality` as a person meets it, against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from loadtest.process import PATIENCE, Process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service that has been asked enough to say something."""
    watchful = {"OBSERVE_SHARE": 1.0, "OBSERVE_TIME": 1.0}
    with Process(tmp_path_factory.mktemp("data"), ENCODER="fake", **watchful) as running:
        running.await_ready()
        held = [{"id": f"d{i}", "text": f"topic {i} of {i % 7} words"} for i in range(200)]
        assert running.client.post("/ingest", json={"documents": held}).status_code == 200
        for i in range(60):
            assert running.client.post("/search", json={"query": f"topic {i}", "candidates": 20}).status_code == 200
        deadline = monotonic() + PATIENCE
        while running.client.get("/quality").json()["collections"][0]["counts"]["outcomes"].get("deepened", 0) < 60:
            assert monotonic() < deadline, "nobody looked a second time"
            sleep(0.1)
        yield running


def quality(service: Process, *arguments: str) -> Result:
    ran = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["quality", "--url", str(service.client.base_url), *arguments])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran


def test_figures_come_with_intervals_and_findings_in_words(service: Process) -> None:
    said = " ".join(quality(service).stdout.split())
    assert "default: 60 searches watched" in said
    assert "a better answer below rank 20" in said
    assert "candidates that hold 95 % of the ten best" in said
    assert "info: Of those sampled no search asked the graph" in said


def test_the_same_as_json(service: Process) -> None:
    (found,) = json.loads(quality(service, "--json", "--collection", "default").stdout)["collections"]
    assert found["counts"]["watched"] == 60
    assert found["depth"]["missed"]["searches"] == 60


def test_a_reference_of_too_few_searches_is_refused_in_a_sentence(service: Process) -> None:
    refused = quality(service, "--refer")
    assert refused.exit_code == 1
    assert "fewer than 100 searches" in refused.stderr


def test_where_nobody_listens_it_says_so() -> None:
    ran = CliRunner(env={"COLUMNS": "200", "WINNOW_PORT": "9"}).invoke(app, ["quality"])
    assert ran.exit_code == 3
    assert "can't be reached" in ran.stderr


def test_without_an_address_it_is_that_of_the_settings_in_either_family() -> None:
    ran = CliRunner(env={"COLUMNS": "200", "WINNOW_HOST": "::1", "WINNOW_PORT": "9"}).invoke(app, ["quality"])
    assert ran.exit_code == 3
    assert "http://[::1]:9 can't be reached" in ran.stderr
