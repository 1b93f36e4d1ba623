"""What a calibration found out, as tables for people."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.quality import verdict
from app.quality.calibrate import Findings, Mapped
from app.quality.measures import NDCG
from app.quality.reliability import Errors
from app.quality.types import Estimate
from app.types import Calibration


def findings(found: Findings, collection: str, calibration: Calibration) -> RenderableType:
    """From the order of candidates to what a probability can be believed."""
    return Group(
        Text.assemble((f"{collection}, {calibration.mode}", "bold"), f": {verdict.size(found)}"),
        _orders(found),
        Text(verdict.blend(found)),
        Text(verdict.reranking(found, calibration), "" if calibration.rerank else "bold red"),
        _errors(found),
        _thresholds("Reranked searches by min_relevance, with 95 % intervals", found.reranked),
        _thresholds("Searches that are not reranked", found.unreranked),
        Text("Documents that nobody judged count as irrelevant, unless --judged-only leaves them out.", "dim"),
        *(Text(warning, "yellow") for warning in found.warnings),
    )


def _orders(found: Findings) -> Table:
    table = _table("The order of the candidates", "scored by", NDCG, "95 %")
    for each in found.orders:
        table.add_row(each.name, _number(each.ndcg.mean), _interval(each.ndcg))
    return table


def _errors(found: Findings) -> Table:
    title = "Expected calibration error; by chance: of probabilities that are exactly right, with so few hits"
    table = _table(title, "documents", "hits", "error", "95 %", "by chance", "Brier")
    for name, errors in verdict.errors(found):
        table.add_row(name, f"{errors.hits:,}", *_figures(errors))
    return table


def _figures(errors: Errors) -> tuple[str, ...]:
    return _number(errors.ece.mean), _interval(errors.ece), _number(errors.chance), _number(errors.brier.mean)


def _thresholds(title: str, mapped: Mapped) -> Table:
    table = _table(title, "from", "precision", "recall", "answered", "refused")
    for each in mapped.reliability.thresholds:
        table.add_row(f"{each.at:g}", *map(_share, (each.precision, each.recall, each.answered, each.refused)))
    return table


def _share(estimate: Estimate | None) -> str:
    return f"{estimate.mean:.2f} ({estimate.low:.2f}…{estimate.high:.2f})" if estimate else "-"


def _table(title: str, first: str, *names: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True, title=title, title_justify="left")
    table.add_column(first, style="cyan", overflow="fold", min_width=len(first))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} … {estimate.high:.3f}"


def _number(value: float) -> str:
    return f"{value:.3f}"
