"""Warm is waiting for a model, cool is work: the same on every board."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.grafana.boards.panels import Override

WORKING = {
    "embed": "blue",
    "weigh": "light-blue",
    "filter": "purple",
    "retrieve": "green",
    "fuse": "light-green",
    "load": "semi-dark-yellow",
    "late": "dark-green",
    "rerank": "dark-blue",
    "present": "super-light-blue",
    "highlight": "light-purple",
    "convert": "dark-purple",
    "chunk": "purple",
    "commit": "semi-dark-yellow",
    "publish": "dark-yellow",
    "index": "green",
}
WAITING = {"embed": "light-red", "weigh": "orange", "rerank": "dark-red", "highlight": "light-orange"}


def fixed(colours: Mapping[str, str]) -> list[Override]:
    return [(name, {"color": {"mode": "fixed", "fixedColor": colour}}) for name, colour in colours.items()]


PARTS = fixed(
    {f"{stage} · compute": colour for stage, colour in WORKING.items()}
    | {f"{stage} · queue": colour for stage, colour in WAITING.items()}
)
"""Of series that are called by stage and part."""

BAD = {"color": {"mode": "fixed", "fixedColor": "red"}}
DASHED = {"custom.lineStyle": {"fill": "dash", "dash": [8, 6]}}
