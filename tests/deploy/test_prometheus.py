"""A real Prometheus watches a real service, and every question of the dashboards and rules gets an answer.

Needs the programs `prometheus` and `promtool` (Debian: the package `prometheus`); without them it is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import sleep, time
from typing import Any

import httpx
import pytest
import yaml

from loadtest.process import Process
from loadtest.service import free_port
from tests.deploy import boards, traffic
from tests.deploy.boards import ROOT, RULES, Question
from tests.deploy.traffic import eventually

RULES_TESTS = sorted(Path(__file__).parent.glob("rules_*test.yml"))

SCRAPE_SECONDS = 0.5
ROUNDS = 3

VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$quantile": "0.95", "$instance": ".+", "$collection": ".+"}
"""What Grafana would put in their place."""

LAST_TO_COME = [
    "winnow:search_burn:5m",
    "winnow:truncated:share1h",
    "rate(winnow_index_snapshots_total[1m])",
    "winnow_drift",
    "winnow_depth_missed_share",
    "rate(winnow_depth_needed_count[1h]) > 0",
]
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

    def exemplars(self, expression: str) -> set[str]:
        """The requests that stand for these series."""
        around: dict[str, str | float] = {"query": expression, "start": time() - 600, "end": time() + 600}
        found = self.client.get("/api/v1/query_exemplars", params=around).json()["data"]
        return {each["labels"]["request_id"] for series in found for each in series["exemplars"]}

    def numbers(self, expression: str) -> list[float]:
        """The values that it finds, without those that are none: 0/0 is what nothing looks like in a ratio."""
        values = [float(sample["value"][1]) for sample in self.ask(expression)]
        return [value for value in values if isfinite(value)]


@contextmanager
def _running(command: list[str], ready: str, **environment: str) -> Iterator[None]:
    """A program, from the moment that it says it is ready."""
    with subprocess.Popen(command, env=os.environ | environment, cwd=ROOT) as process:
        try:
            eventually(lambda: _is_ready(process, ready), f"{command[0]} is not ready")
            yield
        finally:
            process.kill()


def _is_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    assert process.poll() is None, f"it ended with exit code {process.returncode}"
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


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
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}"]
    options = [f"--web.listen-address={address}", "--log.level=error", *_features()]
    with _running(command + options, f"http://{address}/-/ready"), httpx.Client(base_url=f"http://{address}") as client:
        yield client


def _features() -> list[str]:
    """What the deployed one is told to do beside the usual."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return [each for each in compose["services"]["prometheus"]["command"] if each.startswith("--enable-feature")]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    settings = traffic.ROOM | traffic.WATCHED | {"ENCODER": "fake", "RERANKER": "fake"}
    with Process(folder / "data", **settings) as process, _prometheus(folder, process.port) as client:
        process.await_ready()
        watching = Prometheus(client)
        eventually(lambda: watching.ask("up == 1") != [], "Prometheus has not found the service")  # it takes its time
        traffic.begin(process.client)
        for at in range(ROUNDS):
            traffic.go_on(process.client, at)
            sleep(2 * SCRAPE_SECONDS)
        eventually(lambda: all(map(watching.numbers, LAST_TO_COME)), "Prometheus has not seen the traffic")
        yield watching


def _of_title(question: Question) -> str:
    return question.place.partition(": ")[2].rpartition(" (")[0]


@needs_prometheus
@pytest.mark.parametrize("question", boards.panel_questions(), ids=lambda question: question.place)
def test_every_panel_has_something_to_show(prometheus: Prometheus, question: Question) -> None:
    assert prometheus.numbers(question.expression)


@needs_prometheus
@pytest.mark.parametrize("question", boards.annotation_questions(), ids=lambda question: question.place)
def test_every_annotation_can_be_asked_for(prometheus: Prometheus, question: Question) -> None:
    assert prometheus.ask(question.expression) == [], "an alert fires in a minute of well-behaved traffic"


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
@pytest.mark.parametrize("histogram", ["winnow_request_seconds_bucket", "winnow_stage_seconds_bucket"])
def test_a_histogram_leads_to_a_request(prometheus: Prometheus, histogram: str) -> None:
    assert traffic.REQUEST in prometheus.exemplars(histogram)


@needs_prometheus
def test_the_mean_times_of_the_stages_fit_into_the_searches_mean_time(prometheus: Prometheus) -> None:
    """Else the central panel would tell of something else than what callers wait for."""
    central = next(each for each in boards.panel_questions() if _of_title(each).startswith(CENTRAL))
    answered = '{route="/search", status="200"}[1m]'
    total = f"sum(rate(winnow_request_seconds_sum{answered})) / sum(rate(winnow_request_seconds_count{answered}))"
    [stages], [whole] = prometheus.numbers(f"sum({central.expression})"), prometheus.numbers(total)
    assert 0 < stages < whole


@needs_prometheus
def test_no_more_searches_are_said_to_be_looked_at_than_there_were(prometheus: Prometheus) -> None:
    """Most are counted several times: as watched, as compared, as looked at more deeply."""
    looked = next(each for each in boards.panel_questions() if _of_title(each) == "Searches looked at")
    watched = 'sum(increase(winnow_observed_queries_total{outcome="watched"}[5m]))'
    [found], [every] = prometheus.numbers(looked.expression), prometheus.numbers(watched)
    assert 0 < found < 1.3 * every, "an increase is extrapolated, though never twofold"


@needs_promtool
def test_the_time_until_documents_are_found_is_at_the_pace_of_embedding_them(tmp_path: Path) -> None:
    """Ten come in each second, five are made searchable: the 3,000 that wait after ten minutes take ten minutes."""
    waits = next(each for each in boards.panel_questions() if _of_title(each) == "Time until they are")
    labels = 'instance="a", collection="papers"'
    series = {
        'winnow_ingested_documents_total{instance="a", status="created"}': "0+600x20",
        f"winnow_index_lag_documents{{{labels}}}": "0+300x20",
    }
    given = [{"series": name, "values": values} for name, values in series.items()]
    expression = waits.expression.replace("$instance", ".+").replace("$collection", ".+")
    asked = {"expr": f"round({expression})", "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": 600}]}
    tests = [{"interval": "1m", "input_series": given, "promql_expr_test": [asked]}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": tests}), "utf-8")
    subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], check=True)


@needs_promtool
def test_prometheus_accepts_its_configuration() -> None:
    subprocess.run(["promtool", "check", "config", ROOT / "deploy/prometheus/prometheus.yml"], check=True)


@needs_promtool
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    subprocess.run(["promtool", "test", "rules", *RULES_TESTS], check=True)


def test_every_alert_is_tried_out() -> None:
    tried = "".join(path.read_text("utf-8") for path in RULES_TESTS)
    for rule in boards.rules():
        assert "record" in rule or f'alertname="{rule["alert"]}"' in tried or f"alertname: {rule['alert']}\n" in tried
