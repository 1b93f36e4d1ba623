"""An evaluation as one HTML page that needs nothing beside it, on a screen, light or dark, or on paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from app.quality import plots
from app.quality.html import fill
from app.quality.measures import NDCG
from app.quality.types import (
    Arm,
    Ceiling,
    Comparison,
    Curve,
    Difference,
    Estimate,
    Evaluation,
    Latency,
    Query,
    Report,
)

MAIN = NDCG
"""The measure that sentences and plots speak of; tables have all."""

RECALL = re.compile(r"recall@(\d+)")
WHOLE = "total"
"""What a running service calls the time from question to answer; no stage of it."""

SURE = 0.05
"""A difference with a smaller p is told from chance."""

CORRECTED = "p is after Holm's correction"
SHOWN = 8
"""Queries that are shown at either end; the table below them has all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with what it shows in words."""

    title: str
    caption: str
    plot: Markup


@dataclass(frozen=True, slots=True)
class Change:
    """What reranking did to one query."""

    query: Query
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Explorer:
    """Queries by what reranking did to them, the best served first."""

    measure: str
    first: str
    second: str
    changes: tuple[Change, ...]
    plot: Markup

    @property
    def rising(self) -> int:
        return sum(change.gain > 0 for change in self.changes)

    @property
    def falling(self) -> int:
        return sum(change.gain < 0 for change in self.changes)

    @property
    def gained(self) -> list[Change]:
        return [change for change in self.changes[:SHOWN] if change.gain > 0]

    @property
    def lost(self) -> list[Change]:
        return [change for change in reversed(self.changes[-SHOWN:]) if change.gain < 0]


@dataclass(frozen=True, slots=True)
class Section:
    """One variant on one dataset."""

    id: str
    title: str
    finding: str
    evaluation: Evaluation
    figures: tuple[Figure, ...]
    explorer: Explorer | None


class Colours:
    """Gives each name of an arm the same mark on the whole page."""

    def __init__(self, names: Iterable[str]) -> None:
        self._series = {name: place for place, name in enumerate(dict.fromkeys(names))}

    def __getitem__(self, name: str) -> int:
        return self._series[name]

    @property
    def legend(self) -> list[tuple[str, Markup]]:
        return [(name, plots.shape(place)) for name, place in self._series.items()]


def render(report: Report) -> str:
    """The whole page."""
    colours = Colours(arm.name for evaluation in report.evaluations for arm in evaluation.arms)
    return fill(
        "page.html",
        ["page.css"],
        "page.js",
        FILTERS,
        report=report,
        legend=colours.legend,
        stages=_stages(report, colours),
        variants=_variants(report.comparisons),
        sections=[_section(report, place, colours) for place in range(len(report.evaluations))],
    )


def number(value: float) -> str:
    return f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def chance(p: float) -> str:
    told = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return told.replace(" ", "\N{NO-BREAK SPACE}")


def interval(estimate: Estimate) -> str:
    return f"{number(estimate.low)}\N{EN DASH}{number(estimate.high)}"


def measured(arms: Sequence[Arm]) -> list[tuple[str, list[Estimate]]]:
    """A row for each measure, with a cell for each arm."""
    names = [measure.name for measure in arms[0].measures]
    return [(name, [arm.measure(name).estimate for arm in arms]) for name in names]


def moment(text: str) -> str:
    """A date for people."""
    return f"{datetime.fromisoformat(text):%-d %B %Y, %H:%M %Z}"


FILTERS: Mapping[str, Callable[..., object]] = {
    "number": number,
    "signed": signed,
    "chance": chance,
    "interval": interval,
    "measured": measured,
    "moment": moment,
}


def _stages(report: Report, colours: Colours) -> Figure:
    """Every arm on every dataset, the mean over them first; of the first variant, since the others have it to beat."""
    first = report.evaluations[0].variant
    summaries = [each for each in report.summaries if each.variant == first]
    groups = [plots.Group("Mean over datasets", _rows(each.arms, colours)) for each in summaries]
    evaluations = [each for each in report.evaluations if each.variant == first]
    groups += [plots.Group(each.dataset, _rows(each.arms, colours)) for each in evaluations]
    caption = f"Mean {MAIN} of each way through the stages, with its 95 % interval."
    return Figure("Stages side by side", caption, plots.intervals(groups, MAIN, caption))


def _rows(arms: Sequence[Arm], colours: Colours) -> tuple[plots.Row, ...]:
    return tuple(_row(arm.name, arm.measure(MAIN).estimate, colours[arm.name]) for arm in arms)


def _row(name: str, estimate: Estimate, series: int) -> plots.Row:
    note = f"{number(estimate.mean)}  [{number(estimate.low)}, {number(estimate.high)}]"
    return plots.Row(name, estimate.mean, estimate.low, estimate.high, note, series)


def _variants(comparisons: Sequence[Comparison]) -> Figure | None:
    """Each variant's difference from the base, by one arm at a time."""
    if not comparisons:
        return None
    groups = dict[str, list[plots.Row]]()
    for each in comparisons:
        rows = groups.setdefault(f"{each.dataset or 'Mean over datasets'}, {each.arm}", [])
        rows += [_difference(each.variant, found) for found in each.differences if found.measure == MAIN]
    caption = f"Difference in {MAIN} from the base on the same queries, with its 95 % interval; {CORRECTED}."
    drawn = [plots.Group(name, tuple(rows)) for name, rows in groups.items()]
    return Figure(
        "Variants against the base", caption, plots.intervals(drawn, f"difference in {MAIN}", caption, zero=True)
    )


def _difference(name: str, found: Difference, series: int = 0) -> plots.Row:
    estimate = found.estimate
    note = f"{signed(estimate.mean)}   {chance(found.adjusted)}"
    return plots.Row(name, estimate.mean, estimate.low, estimate.high, note, series)


def _section(report: Report, place: int, colours: Colours) -> Section:
    evaluation = report.evaluations[place]
    found = (
        _against_dense(evaluation, colours),
        _recall(evaluation, colours),
        _latency(evaluation.latencies),
        *(_candidates(curve, colours) for curve in evaluation.curves),
    )
    several = len({each.variant for each in report.evaluations}) > 1
    return Section(
        f"evaluation-{place + 1}",
        f"{evaluation.dataset}, {evaluation.variant}" if several else evaluation.dataset,
        finding(evaluation),
        evaluation,
        tuple(figure for figure in found if figure),
        _explorer(evaluation),
    )


def finding(evaluation: Evaluation) -> str:
    """What a person in a hurry should know: does what is served beat the first stage alone?"""
    served = evaluation.arm(evaluation.served)
    asked = f"{len(evaluation.queries):,} queries over {evaluation.documents:,} documents"
    reached = f"{served.name} reaches {MAIN} {number(served.measure(MAIN).estimate.mean)} on {asked}"
    against = next((each for each in served.versus_dense if each.measure == MAIN), None)
    return f"{reached}." if against is None else f"{reached}: {_verdict(against)}."


def _verdict(found: Difference) -> str:
    change = f"{signed(found.estimate.mean)} against the dense stage alone"
    sure = f"95 % interval {signed(found.estimate.low)} to {signed(found.estimate.high)}, {chance(found.adjusted)}"
    return f"{change} ({sure})" + ("" if found.adjusted < SURE else ", which chance alone could do")


def _against_dense(evaluation: Evaluation, colours: Colours) -> Figure | None:
    rows = tuple(
        _difference(arm.name, found, colours[arm.name])
        for arm in evaluation.arms
        for found in arm.versus_dense
        if found.measure == MAIN
    )
    if not rows:
        return None
    caption = (
        f"Difference in {MAIN} from the dense stage alone on the same queries, with its 95 % interval; {CORRECTED}."
    )
    plot = plots.intervals([plots.Group("", rows)], f"difference in {MAIN}", caption, zero=True)
    return Figure("What each way adds", caption, plot)


def _recall(evaluation: Evaluation, colours: Colours) -> Figure | None:
    """Recall by depth; a first stage's recall among its candidates is all that a second stage can put in order."""
    lines = [line for arm in evaluation.arms if (line := _depths(arm, colours[arm.name]))]
    if not lines:
        return None
    held = [
        each for each in evaluation.ceilings if any(arm.name.startswith(f"{each.first}+") for arm in evaluation.arms)
    ]
    guides = [plots.Guide(f"ceiling of {each.first}", each.recall.mean, colours[each.first]) for each in held]
    caption = " ".join(["Share of the relevant documents among the first k.", *_ceilings(held)])
    plot = plots.curves(lines, "k", "recall", caption, guides=guides, log=True)
    return Figure("Recall by depth", caption, plot)


def _depths(arm: Arm, series: int) -> plots.Line | None:
    found = [(int(depth[1]), measure) for measure in arm.measures if (depth := RECALL.fullmatch(measure.name))]
    points = [_point(depth, measure.estimate.mean) for depth, measure in sorted(found, key=lambda each: each[0])]
    return plots.Line(arm.name, tuple(points), series) if points else None


def _point(x: float, value: float) -> plots.Point:
    return plots.Point(x, value, value, value)


def _ceilings(ceilings: Sequence[Ceiling]) -> list[str]:
    if not ceilings:
        return []
    told = "{}: {:.1%}, and {} at most {}"
    limits = [told.format(each.first, each.recall.mean, MAIN, number(each.ndcg.mean)) for each in ceilings]
    return [
        f"A dashed line is the share among the {ceilings[0].candidates} candidates of a first stage, "
        f"which no second stage can exceed ({'; '.join(limits)})."
    ]


def _latency(latencies: Sequence[Latency]) -> Figure | None:
    if not latencies:
        return None
    caption = (
        "Milliseconds that each stage takes for one query, also those that what is served does without. "
        "Percentiles of stages need not add up to one of the whole."
    )
    rows = [
        _bar("half of queries", {each.stage: each.p50 for each in latencies}),
        _bar("95 of 100 queries", {each.stage: each.p95 for each in latencies}),
    ]
    return Figure("Where the time goes", caption, plots.bars(rows, "milliseconds", caption))


def _bar(name: str, stages: Mapping[str, float]) -> plots.Bar:
    """The stages end to end, and behind them the whole, where somebody took its time."""
    alone = [(stage, value) for stage, value in stages.items() if stage != WHOLE]
    parts = tuple(plots.Part(stage, value, place) for place, (stage, value) in enumerate(alone))
    return plots.Bar(name, parts, f"in all {stages[WHOLE]:,.1f} ms" if WHOLE in stages else "")


def _candidates(curve: Curve, colours: Colours) -> Figure | None:
    if not curve.points:
        return None
    timed = all(point.milliseconds is not None for point in curve.points)
    costs = [(point.milliseconds or 0.0) if timed else point.tokens for point in curve.points]
    pairs = list(zip(costs, curve.points, strict=True))
    points = tuple(
        plots.Point(cost, point.ndcg.mean, point.ndcg.low, point.ndcg.high, str(point.candidates))
        for cost, point in pairs
    )
    pin = next(
        (plots.Pin("knee", cost, point.ndcg.mean) for cost, point in pairs if point.candidates == curve.knee), None
    )
    auto = f"With candidates: auto {curve.auto.candidates:.1f} are read in the mean, for {curve.auto.ndcg.mean:.3f}."
    caption = f"{MAIN} against what reranking costs; the numbers are candidates. The knee is {curve.rule}. {auto}"
    line = plots.Line(curve.arm, points, colours[curve.arm])
    axis = "milliseconds of reranking for a query" if timed else "tokens that the cross-encoder reads for a query"
    plot = plots.curves([line], axis, MAIN, caption, pin=pin, log=all(cost > 0 for cost in costs))
    return Figure(f"How many candidates: {curve.arm}", caption, plot)


def _explorer(evaluation: Evaluation) -> Explorer | None:
    """Before and after reranking, where what is served has a second stage."""
    first, _, second = evaluation.served.partition("+")
    if not second or not evaluation.queries:
        return None
    before, after = (evaluation.arm(name).measure(MAIN).values for name in (first, evaluation.served))
    changes = [Change(*each) for each in zip(evaluation.queries, before, after, strict=True)]
    changes.sort(key=lambda change: -change.gain)
    plot = plots.changes([change.gain for change in changes], f"change in {MAIN}", f"Each query's change in {MAIN}.")
    return Explorer(MAIN, first, evaluation.served, tuple(changes), plot)
