"""Which fields of a dashboard Grafana knows. It passes over others, so that a misspelt one has no effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FIELDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("grafana_fields.yml").read_text("utf-8"))


def unknown_fields(board: dict[str, Any]) -> Iterator[str]:
    """Where they stand."""
    yield from _unknown(board, FIELDS["dashboard"], "")
    for kind, found in (
        ("link", board["links"]),
        ("variable", board["templating"]["list"]),
        ("annotation", board["annotations"]["list"]),
    ):
        yield from _unknown(found, FIELDS[kind], f"/{kind}")
    for panel in board["panels"]:
        yield from _unknown_in_panel(panel, f"/{panel['title']}")


def _unknown_in_panel(panel: dict[str, Any], path: str) -> Iterator[str]:
    if panel["type"] == "row":
        yield from _unknown(panel, FIELDS["row"], path)
        return
    yield from _unknown(panel, FIELDS["panel"], path)
    yield from _unknown(panel.get("links", []), FIELDS["link"], path)
    yield from _unknown(panel["options"], FIELDS["options"][panel["type"]], f"{path}/options")
    yield from _unknown(panel["fieldConfig"], FIELDS["fieldConfig"], f"{path}/fieldConfig")
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    yield from _unknown(custom, FIELDS["custom"].get(panel["type"], {}), f"{path}/custom")
    yield from _unknown(panel.get("targets", []), FIELDS["target"], f"{path}/targets")


def _unknown(value: Any, fields: dict[str, Any] | None, path: str) -> Iterator[str]:
    """Of a list, what stands in each of its parts; no fields stand for anything."""
    if isinstance(value, list):
        for each in value:
            yield from _unknown(each, fields, path)
    elif isinstance(value, dict) and fields is not None:
        for name, inside in value.items():
            if name in fields:
                yield from _unknown(inside, fields[name], f"{path}/{name}")
            else:
                yield f"{path}/{name}"
