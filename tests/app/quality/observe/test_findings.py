"""What figures are put into words, and when they are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.quality.observe.findings import findings
from app.quality.observe.types import Counts, Depth, Drift, Figure, Lengths, Lift, Recall, Report, Signal

MANY, FEW = 200, 12


def figure(value: float, searches: int = MANY, spread: float = 0.01) -> Figure:
    return Figure(value, value - spread, value + spread, searches)


def recall(found: Figure, **more: bool) -> Recall:
    return Recall(
        0.98, 400, 400, tuned=more.get("tuned", False), exhausted=more.get("exhausted", False), at={10: found}
    )


def depth(needed: int, searches: int = MANY, costs_ms: float = 35.0) -> Depth:
    return Depth(50, 200, figure(0.12, searches), 0.03, needed, costs_ms)


def lift(unchanged: float, searches: int = MANY) -> Lift:
    return Lift(figure(0.7, searches), figure(0.8, searches), figure(unchanged, searches))


def lengths(cut: float, long: float, searches: int = MANY) -> Lengths:
    return Lengths(figure(1 - cut, searches), figure(cut, searches), 9.0, 300, 128, figure(long, searches))


def drift(distance: float) -> Drift:
    return Drift("hybrid", "2026", 500, [Signal("top_score", distance, 0.12, 0.4, 0.7, distance > 0.12, 500)])


NOTHING = Report("default", Counts(MANY, 0, {"compared": MANY}), None, None, None, None, None, None, [])


def told(**known: Any) -> list[tuple[str, str]]:
    return [(each.severity, each.text) for each in findings(replace(NOTHING, **known))]


@pytest.mark.parametrize(
    ("known", "severity", "text"),
    [
        (
            {"recall": recall(figure(0.93, spread=0.02))},
            "warning",
            "recall@10 of the graph is 0.930 (0.910 to 0.950, 200 searches), below the objective 0.98: raise "
            "WINNOW_INDEX_EF above 400, or set WINNOW_TUNE_EF.",
        ),
        ({"recall": recall(figure(0.93), tuned=True)}, "warning", "the effort, 400, is being raised"),
        ({"recall": recall(figure(0.93), tuned=True, exhausted=True)}, "warning", "higher WINNOW_INDEX_M"),
        ({"recall": recall(figure(0.975))}, "info", "whether it meets the objective 0.98 is not sure"),
        ({"recall": recall(figure(0.995, spread=0.003))}, "info", "which meets the objective"),
        (
            {"depth": depth(100)},
            "advice",
            "12 % of sampled queries had a better answer below rank 50: raise candidates to 100, which hold 95 % of "
            "the ten best; cost +35 ms.",
        ),
        ({"depth": depth(190)}, "advice", "95 % of the ten best (of 200: there may be more below)"),
        ({"depth": depth(20, costs_ms=-40.0)}, "advice", "with so many a search would take 40 ms less"),
        ({"depth": depth(45)}, "info", "50 candidates are about as many"),
        ({"rerank": lift(0.85)}, "advice", "Reranking changed nothing of the ten best in 85 % of searches"),
        ({"rerank": lift(0.3)}, "info", "Reranking kept 70 %"),
        ({"lengths": lengths(0.1, 0.0)}, "warning", "In 10 % of searches the reranker saw only a part"),
        ({"lengths": lengths(0.0, 0.2)}, "advice", "20 % of queries are longer than the 128 tokens"),
        ({"drift": drift(0.3)}, "warning", "the median is 0.400, and was 0.700 (distance 0.30, by chance below 0.12)"),
        ({"unanswered": figure(0.2)}, "warning", "20 % of searches had no good answer"),
    ],
)
def test_a_figure_that_calls_for_something_says_what(known: dict[str, Any], severity: str, text: str) -> None:
    ((found, sentence),) = told(**known)
    assert found == severity
    assert text in sentence


def test_searches_that_ask_no_graph_are_not_said_to_compare_with_vectors() -> None:
    """They may be by words alone."""
    ((_, sentence),) = told(counts=Counts(MANY, 0, {"exact": MANY}))
    assert "no search asked the graph" in sentence
    assert "or with none" in sentence


def test_figures_that_are_as_they_should_be_say_nothing() -> None:
    assert told(lengths=lengths(0.0, 0.0), drift=drift(0.1), unanswered=figure(0.05)) == []


def test_nothing_is_found_in_too_few_searches() -> None:
    said = told(
        recall=recall(figure(0.5, FEW)),
        depth=depth(200, FEW),
        rerank=lift(0.99, FEW),
        lengths=lengths(0.5, 0.5, FEW),
        unanswered=figure(0.5, FEW),
    )
    assert {severity for severity, _ in said} == {"info"}
    assert all(f"{FEW} of 50" in text for _, text in said)


def test_a_collection_that_hardly_anybody_searches_says_only_that() -> None:
    few = Counts(FEW, 0, {})
    assert told(counts=few, recall=recall(figure(0.5)), drift=drift(0.9)) == [
        ("info", "Not enough searches yet: 12 of 50.")
    ]


def test_the_gravest_comes_first() -> None:
    said = told(rerank=lift(0.3), depth=depth(100), drift=drift(0.3))
    assert [severity for severity, _ in said] == ["warning", "advice", "info"]
