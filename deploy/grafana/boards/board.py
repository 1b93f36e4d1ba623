"""A board: rows of panels, laid out from left to right, with the variables and links that all boards share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.grafana.boards.panels import SOURCE, Json, Panel, spelled_out

WIDTH = 24
"""Of Grafana's grid."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels beneath a heading, each as high as its line."""

    title: str
    panels: Sequence[Panel]
    height: int = 8


@dataclass(frozen=True, slots=True)
class Board:
    name: str
    title: str
    why: str
    rows: Sequence[Row]
    since: str = "now-30m"
    every: str = "10s"

    def json(self) -> Json:
        panels = [*self._laid_out()]
        return {
            "uid": f"winnow-{self.name}",
            "title": self.title,
            "description": self.why,
            "tags": ["winnow"],
            "id": None,
            "editable": True,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "preload": False,
            "refresh": self.every,
            "schemaVersion": 42,
            "time": {"from": self.since, "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "version": 1,
            "weekStart": "",
            "links": [_LINKS],
            "templating": {"list": [each for each in _VARIABLES if re.search(rf"\$\{{?{each['name']}\b", str(panels))]},
            "annotations": {"list": _ANNOTATIONS},
            "panels": panels,
        }

    def _laid_out(self) -> Iterator[Json]:
        number = y = 0
        for row in self.rows:
            number, x = number + 1, 0
            yield _heading(number, row.title, y)
            y += 1
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y = 0, y + row.height
                number += 1
                yield panel.json(number, {"h": row.height, "w": panel.width, "x": x, "y": y})
                x += panel.width
            y += row.height


def _heading(number: int, title: str, y: int) -> Json:
    place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _annotation(name: str, colour: str, expression: str, title: str, text: str, **more: object) -> Json:
    target = {"expr": spelled_out(expression), "interval": "60s", "refId": "Anno"}
    said = {"name": name, "datasource": SOURCE, "enable": True, "hide": False, "iconColor": colour, "target": target}
    return said | {"titleFormat": title, "textFormat": text} | more


def _listed(name: str, label: str, asked: str) -> Json:
    """A variable whose values are those of a label."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": asked, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}

_VARIABLES = [
    {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    },
    _listed("instance", "Instance", "label_values(winnow_info, instance)"),
    _listed("collection", "Collection", 'label_values(winnow_index_chunks{instance=~"$instance"}, collection)'),
    {
        "type": "custom",
        "name": "quantile",
        "label": "Stages at",
        "query": ", ".join(f"{name} : {value}" for name, value in _QUANTILES.items()),
        "current": {"text": "p95", "value": "0.95"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [{"text": name, "value": value, "selected": name == "p95"} for name, value in _QUANTILES.items()],
    },
]

_LINKS = {
    "title": "Winnow",
    "type": "dashboards",
    "tags": ["winnow"],
    "url": "",
    "icon": "external link",
    "tooltip": "",
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
}

_ANNOTATIONS = [
    {
        "name": "Annotations & Alerts",
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "builtIn": 1,
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "type": "dashboard",
    },
    _annotation(
        "Alerts",
        "red",
        'ALERTS{alertname=~"Winnow.+", alertstate="firing"}',
        "{{alertname}}",
        "{{instance}} {{collection}}",
    ),
    _annotation(
        "Starts",
        "blue",
        '1000 * process_start_time_seconds{job="winnow"} and changes(process_start_time_seconds{job="winnow"}[2m]) > 0',
        "start",
        "{{instance}}",
        useValueForTime=True,
    ),
]
