"""A real Prometheus watches a real service, and every question of the dashboards and rules gets an answer.

Needs the programs `prometheus` and `promtool` (Debian: the package `prometheus`); without them it is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy import boards
from tests.deploy.boards import ROOT, RULES, Question

PATIENCE = 30.0
SCRAPE_SECONDS = 0.5

SERVE = """
import uvicorn
from app.main import create_app
from app.settings import Settings
settings = Settings()
uvicorn.run(create_app(settings), port=settings.port, log_level="error")
"""

VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$instance": ".+"}
"""What Grafana would put in their place."""

MAY_BE_EMPTY = {
    "Abandoned": "takes a caller who leaves while its texts wait for the model, and the fake models let none wait",
}
"""Panels that this traffic leaves without data, by title."""

LAST_TO_COME = ["winnow:search_seconds:p99_5m", "winnow:refused:share5m", "rate(winnow_index_snapshots_total[1m])"]
"""When these are there, so is everything else."""

CENTRAL = "Mean time of a search"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no `prometheus` on the PATH: its queries are not tried on a real one"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no `promtool` on the PATH: the alerts are not tried out"
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs, and has seen some traffic."""

    client: httpx.Client

    def ask(self, expression: str) -> list[Any]:
        """The samples that an expression finds now; an expression that fails is an error."""
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        answer = self.client.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[Any] = answer["data"]["result"]
        return found

    def numbers(self, expression: str) -> list[float]:
        """The values that it finds, without those that are none: 0/0 is what nothing looks like in a ratio."""
        values = [float(sample["value"][1]) for sample in self.ask(expression)]
        return [value for value in values if isfinite(value)]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def _running(command: list[str], ready: str, **environment: str) -> Iterator[None]:
    """A program, from the moment that it says it is ready."""
    with subprocess.Popen(command, env=os.environ | environment, cwd=ROOT) as process:
        try:
            _await(lambda: _is_ready(process, ready), f"{command[0]} is not ready")
            yield
        finally:
            process.kill()


def _is_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    assert process.poll() is None, f"it ended with exit code {process.returncode}"
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, f"{otherwise} after {PATIENCE:g} seconds"
        sleep(0.1)


@contextmanager
def _winnow(data_dir: Path, port: int) -> Iterator[httpx.Client]:
    """A service with so little room that two searches at once are one too many."""
    settings = {
        "WINNOW_ENCODER": "fake",
        "WINNOW_RERANKER": "fake",
        "WINNOW_PORT": str(port),
        "WINNOW_DATA_DIR": str(data_dir),
        "WINNOW_LOG_LEVEL": "error",
        "WINNOW_QUEUE_TOKENS": "1024",
        "WINNOW_SNAPSHOT_CHANGES": "1",
    }
    address = f"http://127.0.0.1:{port}"
    with _running([sys.executable, "-c", SERVE], f"{address}/readyz", **settings), httpx.Client(base_url=address) as at:
        yield at


@contextmanager
def _prometheus(folder: Path, target: int) -> Iterator[httpx.Client]:
    """As deployed, but looking at this target, and more often."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), f"{SCRAPE_SECONDS * 1000:.0f}ms")
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "winnow"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    often = re.sub(r"^ +interval: \w+\n", "", RULES.read_text("utf-8"), flags=re.MULTILINE)
    (folder / RULES.name).write_text(often, "utf-8")
    address = f"127.0.0.1:{_free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}"]
    options = [f"--web.listen-address={address}", "--log.level=error"]
    with _running(command + options, f"http://{address}/-/ready"), httpx.Client(base_url=f"http://{address}") as client:
        yield client


def _traffic(winnow: httpx.Client, at: int) -> None:
    """Some of everything that can be measured from outside."""
    documents = [{"id": f"{at}-{i}", "text": f"Filter number {i} is changed after {i} hours."} for i in range(20)]
    assert winnow.post("/ingest", json={"documents": documents}).status_code == 200
    assert winnow.post("/search", json={"query": "when is a filter changed"}).status_code == 200
    assert winnow.post("/rerank", json={"query": "which filter", "documents": ["a filter"]}).status_code == 200
    assert winnow.post("/embed", json={"inputs": ["a filter"]}).status_code == 200
    assert winnow.post("/search", json={"query": ""}).status_code == 422
    assert winnow.delete(f"/documents/{at}-0").status_code == 200
    _await(lambda: 429 in _at_once(winnow, 8), "nothing is refused")


def _at_once(winnow: httpx.Client, amount: int) -> list[int]:
    with ThreadPoolExecutor(amount) as pool:
        answers = pool.map(lambda _: winnow.post("/search", json={"query": "which filter"}), range(amount))
        return [answer.status_code for answer in answers]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder, port = tmp_path_factory.mktemp("prometheus"), _free_port()
    with _winnow(folder / "data", port) as winnow, _prometheus(folder, port) as client:
        watching = Prometheus(client)
        _await(lambda: bool(watching.ask("up == 1")), "Prometheus has not found the service")
        for at in range(3):
            _traffic(winnow, at)
            sleep(2 * SCRAPE_SECONDS)
        _await(lambda: all(map(watching.numbers, LAST_TO_COME)), "Prometheus has not seen the traffic")
        yield watching


def _of_title(question: Question) -> str:
    return question.place.partition(": ")[2].rpartition(" (")[0]


@needs_prometheus
@pytest.mark.parametrize("question", boards.panel_questions(), ids=lambda question: question.place)
def test_every_panel_has_something_to_show(prometheus: Prometheus, question: Question) -> None:
    assert prometheus.numbers(question.expression) or _of_title(question) in MAY_BE_EMPTY


@needs_prometheus
@pytest.mark.parametrize("question", boards.annotation_questions(), ids=lambda question: question.place)
def test_every_annotation_can_be_asked_for(prometheus: Prometheus, question: Question) -> None:
    assert prometheus.ask(question.expression) == [], "an alert fires in a minute of well-behaved traffic"


def test_panels_that_may_be_empty_exist() -> None:
    assert set(MAY_BE_EMPTY) <= {_of_title(question) for question in boards.panel_questions()}


@needs_prometheus
def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    groups = prometheus.client.get("/api/v1/rules").json()["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert health == {rule.get("record") or rule["alert"]: "ok" for rule in boards.rules()}


@needs_prometheus
@pytest.mark.parametrize("name", [rule["record"] for rule in boards.rules() if "record" in rule])
def test_every_recording_records(prometheus: Prometheus, name: str) -> None:
    assert prometheus.numbers(name)


@needs_prometheus
@pytest.mark.parametrize("rule", [rule for rule in boards.rules() if "alert" in rule], ids=lambda rule: rule["alert"])
def test_every_alert_reads_series_that_are_there(prometheus: Prometheus, rule: dict[str, Any]) -> None:
    """An alert that is quiet returns nothing, so what it reads is looked at, whatever values it picks it by."""
    for name, _ in Question("", rule["expr"]).selectors:
        assert prometheus.numbers(name), f"{name} is not there"


@needs_prometheus
def test_the_mean_times_of_the_stages_fit_into_the_searches_mean_time(prometheus: Prometheus) -> None:
    """Else the central panel would tell of something else than what callers wait for."""
    central = next(each for each in boards.panel_questions() if _of_title(each).startswith(CENTRAL))
    answered = '{route="/search", status="200"}[1m]'
    total = f"sum(rate(winnow_request_seconds_sum{answered})) / sum(rate(winnow_request_seconds_count{answered}))"
    [stages], [whole] = prometheus.numbers(f"sum({central.expression})"), prometheus.numbers(total)
    assert 0 < stages < whole


@needs_promtool
def test_prometheus_accepts_its_configuration() -> None:
    subprocess.run(["promtool", "check", "config", ROOT / "deploy/prometheus/prometheus.yml"], check=True)


@needs_promtool
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    subprocess.run(["promtool", "test", "rules", Path(__file__).with_name("rules_test.yml")], check=True)


def test_every_alert_is_tried_out() -> None:
    tried = Path(__file__).with_name("rules_test.yml").read_text("utf-8")
    for rule in boards.rules():
        assert "record" in rule or f'alertname="{rule["alert"]}"' in tried
