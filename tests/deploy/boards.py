"""What the dashboards and rules ask Prometheus, read from their files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import ProcessCollector

from app.telemetry import Metrics

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RULES = ROOT / "deploy/prometheus/rules.yml"

TARGET_LABELS = {"instance", "job"}
"""Prometheus gives these to whatever it scrapes."""

OWN_SERIES: Mapping[str, set[str]] = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate"},
}
"""Prometheus makes these itself."""

PROCESS = [family.name for family in ProcessCollector(registry=None).collect()]
"""What the client library measures of any process."""

_STRING = re.compile(r'"[^"]*"')
_RANGE = re.compile(r"\[[^]]*\]|\boffset\s+\w+")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_NAME = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\s*[\w:(])")
_WORDS = {"and", "or", "unless", "bool"}
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Question:
    """A PromQL expression, and where it stands."""

    place: str
    expression: str
    legend: str = ""

    @property
    def selectors(self) -> list[tuple[str, set[str]]]:
        """The series that it reads, each with the labels that it picks them by."""
        bare = _GROUPING.sub(" ", _RANGE.sub(" ", _STRING.sub("''", self.expression)))
        with_labels = [(name, set(_MATCHER.findall(inside))) for name, inside in _SELECTOR.findall(bare)]
        rest = _NAME.findall(_SELECTOR.sub(" ", bare))
        return with_labels + [(name, set[str]()) for name in rest if name not in _WORDS]

    @property
    def labels_kept(self) -> set[str]:
        """The labels that it groups and matches by, and that its legend shows."""
        grouped = [label.strip() for inside in _GROUPING.findall(self.expression) for label in inside.split(",")]
        return {label for label in grouped if label} | set(_LEGEND.findall(self.legend))


def panels(dashboard: Path) -> Iterator[dict[str, Any]]:
    """Every panel, those inside rows too."""
    for panel in json.loads(dashboard.read_text("utf-8"))["panels"]:
        yield panel
        yield from panel.get("panels", [])


def panel_questions() -> list[Question]:
    """What the panels ask."""
    return [
        Question(f"{dashboard.name}: {panel['title']} ({target['refId']})", target["expr"], target["legendFormat"])
        for dashboard in DASHBOARDS
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
    ]


def annotation_questions() -> list[Question]:
    return [
        Question(
            f"{dashboard.name}: annotation {each['name']}",
            each["target"]["expr"],
            each["titleFormat"] + each["textFormat"],
        )
        for dashboard in DASHBOARDS
        for each in json.loads(dashboard.read_text("utf-8"))["annotations"]["list"]
        if "target" in each
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def rule_questions() -> list[Question]:
    return [Question(f"rule {rule.get('record') or rule['alert']}", rule["expr"]) for rule in rules()]


def families() -> dict[str, set[str]]:
    """Every metric of the service, with the names of its series."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {
        family.name: {family.name + suffix for suffix in suffixes[family.type]}
        for family in Metrics().registry.collect()
    }


def series() -> dict[str, set[str]]:
    """Every series that can be asked for, with the labels that it may have."""
    known = {name: labels | TARGET_LABELS for name, labels in OWN_SERIES.items()}
    known |= {name: set(TARGET_LABELS) for family in PROCESS for name in families()[family]}
    for metric in vars(Metrics()).values():
        if name := getattr(metric, "_name", None):
            extra = {"le"} if metric._type == "histogram" else set()
            known |= {each: {*metric._labelnames, *extra, *TARGET_LABELS} for each in families()[name]}
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = _recorded(Question("", rule["expr"]), known) - {"le"}
    return known


def _recorded(question: Question, known: Mapping[str, set[str]]) -> set[str]:
    """The labels that are left: those that it groups by, or else those of what it reads."""
    grouped = "by (" in question.expression
    return question.labels_kept if grouped else set().union(*(known[name] for name, _ in question.selectors))
