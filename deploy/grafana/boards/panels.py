"""The kinds of panels that the boards are made of, as Grafana's schema has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]

Override = tuple[str, Json]
"""The properties of the series of a name; a name between slashes is a pattern."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PLAIN = [(None, "green")]
NEUTRAL = [(None, "text")]

Steps = Sequence[tuple[float | None, str]]
"""From which value on which colour; the first one has no beginning."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to Prometheus, and what its answers are called.

    Every metric is written with braces, which take in the chosen instances, and with a bare `collection` the chosen
    collections too; `[.]` is the span that Grafana finds right for the zoom.
    """

    expression: str
    legend: str = ""
    exemplars: bool = False

    def target(self, place: int, **more: object) -> Json:
        shown = {"refId": chr(ord("A") + place), "datasource": SOURCE, "editorMode": "code"}
        asked = {"expr": spelled_out(self.expression), "legendFormat": self.legend, "range": True, "instant": False}
        return shown | asked | ({"exemplar": True} if self.exemplars else {}) | more


def spelled_out(expression: str) -> str:
    def selector(found: re.Match[str]) -> str:
        labels = ['collection=~"$collection"' if each == "collection" else each for each in _labels(found[1])]
        return "{" + ", ".join([*labels, 'instance=~"$instance"']) + "}"

    return re.sub(r"\{([^}]*)\}", selector, expression).replace("[.]", "[$__rate_interval]")


def _labels(inside: str) -> list[str]:
    return re.findall(r'\w+(?:[=!][=~]?"[^"]*")?', inside)


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, without its place."""

    kind: str
    title: str
    why: str
    width: int
    targets: Sequence[Json]
    options: Json
    defaults: Json
    overrides: Sequence[Override] = ()
    more: Json = field(default_factory=dict)

    def json(self, number: int, place: Json) -> Json:
        said = {"id": number, "type": self.kind, "title": self.title, "description": self.why}
        shown = {"fieldConfig": {"defaults": self.defaults, "overrides": [*map(_override, self.overrides)]}}
        asked = {"datasource": SOURCE, "targets": [*self.targets]} if self.targets else {}
        return said | {"gridPos": place} | asked | shown | {"options": self.options} | self.more


def stat(
    title: str,
    why: str,
    asks: str | Ask,
    unit: str = "short",
    steps: Steps = NEUTRAL,
    *,
    width: int = 3,
    decimals: int | None = None,
    says: Mapping[float, tuple[str, str]] | None = None,
    background: bool = False,
    now: bool = False,
    board: str = "",
) -> Panel:
    """One number. It may say words for values, be asked for at this moment alone, and lead to another board."""
    ask = Ask(asks, title) if isinstance(asks, str) else asks
    shown = _defaults(unit, steps, decimals=decimals) | {"noValue": "-"}
    shown["mappings"] = [_words(says)] if says else []
    options = {
        "reduceOptions": _LAST,
        "colorMode": "background" if background else "value",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "textMode": "value_and_name" if "{{" in ask.legend else "auto",
        "wideLayout": True,
    }
    moment = {"range": False, "instant": True} if now else {}
    links = {"links": [_link(board)]} if board else {}
    return Panel("stat", title, why, width, [ask.target(0, **moment)], options, shown, more=links)


def graph(
    title: str,
    why: str,
    *asks: Ask,
    unit: str = "short",
    width: int = 6,
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
    line: float | None = None,
    overrides: Sequence[Override] = (),
    legend: Literal["list", "table"] = "list",
) -> Panel:
    """Lines over time; stacked ones add up. A line may be drawn where too much begins."""
    steps: Steps = [(None, "green"), (line, "red")] if line is not None else PLAIN
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 8,
        "gradientMode": "none",
        "showPoints": "never",
        "pointSize": 5,
        "spanNulls": False,
        "axisPlacement": "auto",
        "axisLabel": "",
        "scaleDistribution": {"type": "linear"},
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "off" if line is None else "line"},
        "hideFrom": _HIDE,
    }
    ends = {name: value for name, value in (("min", least), ("max", most)) if value is not None}
    shown = _defaults(unit, steps, colour="palette-classic") | {"custom": custom} | ends
    beside = {"placement": "right", "sortBy": "Mean", "sortDesc": True, "calcs": ["lastNotNull", "mean", "max"]}
    listed = beside if legend == "table" else {"placement": "bottom", "calcs": []}
    options = {"legend": {"displayMode": legend, "showLegend": True, **listed}, "tooltip": _TOOLTIP}
    return Panel("timeseries", title, why, width, _targets(asks), options, shown, overrides)


def bars(title: str, why: str, ask: Ask, unit: str, *, width: int = 6, overrides: Sequence[Override] = ()) -> Panel:
    """What there is over the time shown, each as a bar."""
    options = {
        "reduceOptions": _LAST,
        "orientation": "horizontal",
        "displayMode": "gradient",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizHeight": 16,
        "minVizWidth": 8,
        "maxVizHeight": 300,
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
    }
    shown = _defaults(unit, PLAIN, colour="palette-classic") | {"min": 0}
    return Panel("bargauge", title, why, width, [ask.target(0, range=False, instant=True)], options, shown, overrides)


def heatmap(title: str, why: str, ask: Ask, unit: str, *, width: int = 8) -> Panel:
    """How values are distributed, over time: asked for as `sum by (le) (increase(…_bucket{}[.]))`."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short", "decimals": 0},
        "color": {
            "mode": "scheme",
            "scheme": "Turbo",
            "exponent": 0.5,
            "fill": "dark-orange",
            "reverse": False,
            "scale": "exponential",
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    shown = {"custom": {"hideFrom": _HIDE, "scaleDistribution": {"type": "linear"}}}
    return Panel("heatmap", title, why, width, [ask.target(0, format="heatmap")], options, shown)


def table(
    title: str,
    why: str,
    *asks: Ask,
    columns: Sequence[str],
    unit: str = "short",
    hidden: Sequence[str] = (),
    width: int,
) -> Panel:
    """What holds now: a line for each set of labels. A column is a label, or the answers to the question so called."""
    named = {f"Value #{chr(ord('A') + place)}": ask.legend for place, ask in enumerate(asks)} if len(asks) > 1 else {}
    organize = {
        "excludeByName": dict.fromkeys(["Time", *([] if named else ["Value"]), *hidden], True),
        "includeByName": {},
        "indexByName": {_called(column, named): place for place, column in enumerate(columns)},
        "renameByName": named,
    }
    moves = [*([{"id": "merge", "options": {}}] if named else []), {"id": "organize", "options": organize}]
    custom = {"align": "left", "cellOptions": {"type": "auto"}, "inspect": False}
    shown = _defaults(unit, NEUTRAL) | {"custom": custom}
    targets = [ask.target(place, range=False, instant=True, format="table") for place, ask in enumerate(asks)]
    options = {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}
    return Panel("table", title, why, width, targets, options, shown, more={"transformations": moves})


def words(title: str, why: str, content: str, *, width: int) -> Panel:
    """Text for whoever reads the board."""
    return Panel("text", title, why, width, [], {"mode": "markdown", "content": content}, {})


def _called(column: str, named: Mapping[str, str]) -> str:
    return next((name for name, shown in named.items() if shown == column), column)


def _targets(asks: Sequence[Ask]) -> list[Json]:
    return [ask.target(place) for place, ask in enumerate(asks)]


def _defaults(unit: str, steps: Steps, *, colour: str = "thresholds", decimals: int | None = None) -> Json:
    shown: Json = {"unit": unit, "color": {"mode": colour}, "mappings": []}
    shown["thresholds"] = {"mode": "absolute", "steps": [{"value": value, "color": name} for value, name in steps]}
    return shown if decimals is None else shown | {"decimals": decimals}


def _override(override: Override) -> Json:
    name, properties = override
    pattern = name.startswith("/")
    matcher = {"id": "byRegexp" if pattern else "byName", "options": name[1:-1] if pattern else name}
    return {"matcher": matcher, "properties": [{"id": each, "value": value} for each, value in properties.items()]}


def _words(says: Mapping[float, tuple[str, str]]) -> Json:
    """Words and colours instead of numbers."""
    shown = {
        f"{value:g}": {"text": text, "color": colour, "index": place}
        for place, (value, (text, colour)) in enumerate(says.items())
    }
    return {"type": "value", "options": shown}


def _link(board: str) -> Json:
    return {
        "title": f"Winnow: {board}",
        "type": "link",
        "url": f"/d/winnow-{board}?${{__url_time_range}}&${{__all_variables}}",
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "targetBlank": False,
    }


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_HIDE = {"legend": False, "tooltip": False, "viz": False}
_TOOLTIP = {"mode": "multi", "sort": "desc"}
