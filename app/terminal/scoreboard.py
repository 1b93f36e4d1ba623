"""An evaluation as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.quality.measures import CUTS, MAP, MRR, NDCG
from app.quality.statistics import holm
from app.quality.types import BASE, Arm, Comparison, Curve, Difference, Estimate, Evaluation, Point, Report, Summary

PRECISIONS = (5, 10)
"""What fits a terminal; the files have all of them."""

SIGNIFICANT = 0.05


def evaluation(found: Evaluation) -> RenderableType:
    """One variant on one dataset, stage by stage."""
    chunks = f", {found.chunks:,} chunks" if found.chunks else ""
    size = f"{found.documents:,} documents{chunks}, {len(found.queries):,} queries"
    return Group(
        Text.assemble((_name(found.dataset, found.variant), "bold"), f" ({found.split}): {size}"),
        quality(found.arms, found.served),
        depth(found.arms, found.served),
        _foot(found),
        _ceilings(found),
        _latencies(found),
        *(_curve(curve) for curve in found.curves),
        *(Text(f"The knee: {rule}.", "dim") for rule in {curve.rule for curve in found.curves}),
        *(Text(warning, "yellow") for warning in found.warnings),
    )


def together(report: Report) -> RenderableType:
    """What several datasets or variants say in common."""
    served = {each.variant: each.served for each in report.evaluations}
    summaries = (_summary(each, served[each.variant]) for each in report.summaries)
    return Group(*summaries, *_comparisons(report.comparisons))


def losses(report: Report) -> list[str]:
    """Where a variant's answers are worse than the base's, each as it is served, and chance does not explain it.

    Only their nDCG decides, so only that is corrected for being tested more than once.
    """
    served = [each for each in report.comparisons if each.served]
    tests = [(each.dataset, test) for each in served for test in each.differences if test.measure == NDCG]
    return [
        f"{test.measure} {_signed(test)} on {dataset or 'all datasets'}, p = {p:.3f}"
        for (dataset, test), p in zip(tests, holm([test.p for _, test in tests]), strict=True)
        if p < SIGNIFICANT and test.estimate.mean < 0
    ]


def quality(arms: Sequence[Arm], served: str) -> Table:
    """The measures that say most, with intervals, and differences to the dense stage."""
    table = _table("", "stage", NDCG, "95 %", "vs dense", "p", "Holm", MRR, MAP)
    best = {name: max(arm.measure(name).estimate.mean for arm in arms) for name in (NDCG, MRR, MAP)}
    for arm in arms:
        ndcg = arm.measure(NDCG).estimate
        versus = next((each for each in arm.versus_dense if each.measure == NDCG), None)
        cells = [_best(arm, name, best[name]) for name in (NDCG, MRR, MAP)]
        table.add_row(_arm(arm, served), cells[0], _interval(ndcg), *_gain(versus), *cells[1:])
    return table


def depth(arms: Sequence[Arm], served: str) -> Table:
    """How much is found, and how much of what is shown is right, by depth."""
    names = [*(f"recall@{cut}" for cut in CUTS), *(f"precision@{cut}" for cut in PRECISIONS)]
    table = _table("", "stage", *(name.replace("recall@", "R@").replace("precision@", "P@") for name in names))
    best = {name: max(arm.measure(name).estimate.mean for arm in arms) for name in names}
    for arm in arms:
        table.add_row(_arm(arm, served), *(_best(arm, name, best[name]) for name in names))
    return table


def _foot(found: Evaluation) -> Text:
    reranked = " Reranked stages hold their candidates and no more." if len(found.arms) > 1 else ""
    tests = "p is of paired randomisation tests, Holm's correction over all of them."
    return Text(f"▸ is what the service answers by.{reranked} {tests}", "dim")


def _ceilings(found: Evaluation) -> Table:
    table = _table("The most that reranking can reach", "stage", "candidates", "recall", "95 %", NDCG, "95 %")
    for each in found.ceilings:
        cells = (_number(each.recall.mean), _interval(each.recall), _number(each.ndcg.mean), _interval(each.ndcg))
        table.add_row(each.first, str(each.candidates), *cells)
    return table


def _latencies(found: Evaluation) -> Table:
    table = _table("Milliseconds for one query", "stage", "p50", "p95", "queries", "")
    for each in found.latencies:
        stored = f"{each.stored} timed in an earlier run" if each.stored else ""
        table.add_row(each.stage, f"{each.p50:,.1f}", f"{each.p95:,.1f}", str(each.queries), stored)
    return table


def _curve(curve: Curve) -> RenderableType:
    title = f"{curve.arm} by candidates; cost of one query, ms by the measured rate"
    table = _table(title, "candidates", NDCG, "95 %", "recall", "tokens", "ms")
    for point in curve.points:
        mark = " ◂ knee" if point.candidates == curve.knee else ""
        table.add_row(f"{point.candidates}{mark}", *_cells(point))
    table.add_row(f"auto, {curve.auto.candidates:.1f}", *_cells(curve.auto))
    return table


def _cells(point: Point) -> tuple[str, ...]:
    milliseconds = "" if point.milliseconds is None else f"{point.milliseconds:,.0f}"
    quality = _number(point.ndcg.mean), _interval(point.ndcg), _number(point.recall.mean)
    return *quality, f"{point.tokens:,.0f}", milliseconds


def _summary(found: Summary, served: str) -> RenderableType:
    title = f"mean over {len(found.datasets)} datasets" + (f", {found.variant}" if found.variant != BASE else "")
    return Group(Text(title, "bold"), quality(found.arms, served), depth(found.arms, served))


def _comparisons(found: Sequence[Comparison]) -> Iterator[Table]:
    """One table for each variant on each dataset."""
    for variant, dataset in dict.fromkeys((each.variant, each.dataset) for each in found):
        table = _table(
            f"{variant} against {BASE}, {dataset or 'all datasets'}", "stage", "", "gain", "95 %", "p", "Holm"
        )
        for each in found:
            if (each.variant, each.dataset) == (variant, dataset):
                for test in each.differences:
                    table.add_row(each.arm, *_tested(test), style="bold" if test.adjusted < SIGNIFICANT else "")
        yield table


def _tested(test: Difference) -> tuple[str, ...]:
    interval = _interval(test.estimate, signed=True)
    return test.measure, _signed(test), interval, f"{test.p:.3f}", f"{test.adjusted:.3f}"


def _table(title: str, first: str, *names: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True, title=title or None, title_justify="left")
    table.add_column(first, style="cyan", no_wrap=first == "stage", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(dataset: str, variant: str) -> str:
    return dataset if variant == BASE else f"{dataset}, {variant}"


def _arm(arm: Arm, served: str) -> str:
    return f"▸ {arm.name}" if arm.name == served else f"  {arm.name}"


def _best(arm: Arm, name: str, best: float) -> Text:
    mean = arm.measure(name).estimate.mean
    return Text(_number(mean), "bold" if mean == best else "")


def _gain(difference: Difference | None) -> Iterator[Text]:
    if difference is None:
        return iter([Text("")] * 3)
    style = "bold" if difference.adjusted < SIGNIFICANT else "dim"
    cells = (_signed(difference), f"{difference.p:.3f}", f"{difference.adjusted:.3f}")
    return iter([Text(cell, style) for cell in cells])


def _signed(difference: Difference) -> str:
    return f"{difference.estimate.mean:+.3f}"


def _interval(estimate: Estimate, *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{estimate.low:{form}} … {estimate.high:{form}}"


def _number(value: float) -> str:
    return f"{value:.3f}"
