"""The dashboards and rules speak of metrics that there are, and of all of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from deploy.grafana.boards.__main__ import BOARDS, FOLDER, written
from tests.deploy import boards
from tests.deploy.boards import DASHBOARDS, ROOT, Question
from tests.deploy.grafana import unknown_fields

NOT_SHOWN: dict[str, str] = dict.fromkeys(
    ["process_virtual_memory_bytes", "process_max_fds"], "says nothing that another one does not say better"
)
"""Metrics that no panel shows, each with the reason."""

QUESTIONS = [*boards.panel_questions(), *boards.annotation_questions(), *boards.rule_questions()]
CENTRAL = "Mean time of a search, by stage"
SEARCHING = ("search", "candidates", "second_stage", "present")
"""Where the stages of a search are timed."""


def _question_id(question: Question) -> str:
    return question.place


def _dashboard_id(dashboard: Path) -> str:
    return dashboard.name


def _shown_on(dashboard: Path) -> list[dict[str, Any]]:
    return [panel for panel in boards.panels(dashboard) if panel["type"] != "row"]


def test_there_are_dashboards_and_they_ask_something() -> None:
    assert DASHBOARDS
    assert len(QUESTIONS) > 30


@pytest.mark.parametrize("question", QUESTIONS, ids=_question_id)
def test_a_question_asks_for_metrics_and_labels_that_there_are(question: Question) -> None:
    known = boards.series()
    assert question.selectors or question.expression.startswith("vector("), "no metric was found in it"
    for name, labels in question.selectors:
        assert name in known, f"there is no metric {name}"
        assert labels <= known[name], f"{name} has no label {labels - known[name]}"
    at_hand = set[str]().union(*(known[name] for name, _ in question.selectors))
    if not any(name == "ALERTS" for name, _ in question.selectors):  # an alert carries whatever its expression left it
        assert question.labels_kept <= at_hand


def test_every_metric_is_on_some_panel() -> None:
    asked = {name for question in boards.panel_questions() for name, _ in question.selectors}
    missing = {family for family, names in boards.families().items() if not names & asked}
    assert missing == set(NOT_SHOWN)


def test_a_metric_that_is_misspelt_is_found_out() -> None:
    question = Question(
        "", 'sum by (stage) (rate(winnow_stage_secs_sum{part="queue", lane!~"a|b"}[5m])) / vector(0) or up'
    )
    assert question.selectors == [("winnow_stage_secs_sum", {"part", "lane"}), ("up", set())]
    assert question.labels_kept == {"stage"}
    assert "winnow_stage_secs_sum" not in boards.series()


def test_the_dashboards_are_what_their_source_writes() -> None:
    """If not: python -m deploy.grafana.boards."""
    assert {path.name for path in DASHBOARDS} == {f"{board.name}.json" for board in BOARDS}
    for board in BOARDS:
        assert (FOLDER / f"{board.name}.json").read_text("utf-8") == written(board)


def test_what_is_told_of_the_process_is_of_the_services_own() -> None:
    """Prometheus watches itself too, and has the same metrics of its own process."""
    for question in [*boards.panel_questions(), *boards.annotation_questions()]:
        own = [labels for name, labels in question.selectors if name in boards.series() and name.startswith("process_")]
        assert all("job" in labels for labels in own), question.place


def test_the_boards_lead_to_one_another() -> None:
    known = {f"/d/winnow-{board.name}" for board in BOARDS}
    for dashboard in DASHBOARDS:
        text = dashboard.read_text("utf-8")
        assert set(re.findall(r'"url": "(/d/[\w-]+)', text)) <= known
        [link] = json.loads(text)["links"]
        assert set(link["tags"]) <= set(json.loads(text)["tags"])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=_dashboard_id)
class TestDashboard:
    def test_grafana_knows_every_field(self, dashboard: Path) -> None:
        assert not [*unknown_fields(json.loads(dashboard.read_text("utf-8")))]

    def test_panels_have_ids_of_their_own(self, dashboard: Path) -> None:
        times = Counter(panel["id"] for panel in boards.panels(dashboard))
        assert set(times.values()) == {1}

    def test_panels_do_not_overlap_and_stay_on_the_grid(self, dashboard: Path) -> None:
        taken: dict[tuple[int, int], str] = {}
        for panel in boards.panels(dashboard):
            x, y, w, h = (panel["gridPos"][side] for side in "xywh")
            assert x + w <= 24
            for cell in ((x + i, y + j) for i in range(w) for j in range(h)):
                assert taken.setdefault(cell, panel["title"]) == panel["title"], (
                    f"{panel['title']} covers {taken[cell]}"
                )

    def test_every_panel_says_what_it_shows_and_in_which_unit(self, dashboard: Path) -> None:
        for panel in _shown_on(dashboard):
            assert len(panel["description"]) > 40, panel["title"]
            has_unit = "unit" in panel["fieldConfig"]["defaults"]
            assert has_unit or panel["type"] in ("heatmap", "text"), panel["title"]

    def test_every_question_goes_to_the_chosen_data_source_and_instance(self, dashboard: Path) -> None:
        for panel in _shown_on(dashboard):
            for target in panel.get("targets", ()):
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
                selectors = len(Question("", target["expr"]).selectors)
                assert target["expr"].count('instance=~"$instance"') == selectors, panel["title"]

    def test_every_variable_in_use_is_defined(self, dashboard: Path) -> None:
        text = dashboard.read_text("utf-8")
        defined = {each["name"] for each in json.loads(text)["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)\}?", text))
        assert {name for name in used if not name.startswith("__")} == defined


def test_a_field_that_grafana_does_not_know_is_found_out() -> None:
    board = BOARDS[0].json()
    board["stile"] = "dark"
    board["templating"]["list"][0]["definition"] = ""
    panel = next(panel for panel in board["panels"] if panel["type"] == "timeseries")
    panel["options"]["legend"]["placment"] = "right"
    panel["fieldConfig"]["defaults"]["custom"]["lineWidht"] = 1
    panel["targets"][0]["query"] = "up"
    assert [path.rpartition("/")[2] for path in unknown_fields(board)] == [
        "stile", "definition", "placment", "lineWidht", "query",
    ]  # fmt: skip


def test_every_stage_has_its_colour_where_stages_are_stacked() -> None:
    """One that is added to a pipeline and forgotten here would look like any other."""
    searching = "".join((ROOT / f"app/service/{name}.py").read_text("utf-8") for name in SEARCHING)
    panels = [panel for dashboard in DASHBOARDS for panel in _shown_on(dashboard)]
    central = next(panel for panel in panels if panel["title"].startswith(CENTRAL))
    coloured = {each["matcher"]["options"] for each in central["fieldConfig"]["overrides"]}
    assert {"embed", "retrieve", "late", "rerank", "present"} <= {*re.findall(r'\.stage\("(\w+)"\)', searching)}
    for stage in re.findall(r'\.stage\("(\w+)"\)', searching):
        assert f"{stage} · compute" in coloured
    for stage in re.findall(r'\.stage\("(\w+)"\) as lap', searching):
        assert f"{stage} · queue" in coloured


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in boards.rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert len(rule["annotations"]["summary"]) > 20, rule["alert"]
            assert len(rule["annotations"]["action"]) > 80, rule["alert"]


def test_every_setting_that_is_spoken_of_exists() -> None:
    known = {f"WINNOW_{name.upper()}" for name in Settings.model_fields}
    for file in [*DASHBOARDS, boards.RULES]:
        assert set(re.findall(r"WINNOW_[A-Z_]+", file.read_text("utf-8"))) <= known, file.name
