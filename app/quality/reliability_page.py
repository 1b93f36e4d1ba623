"""What a collection's calibrations are worth, as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.quality import plots, verdict
from app.quality.calibrate import Findings
from app.quality.html import fill
from app.quality.measures import NDCG
from app.quality.page import FILTERS, Figure, interval, number
from app.quality.reliability import Errors, Reliability
from app.quality.types import Estimate
from app.types import Calibration

AFTER, BEFORE, RIGHT = 0, 1, 2
"""Series of a plot."""


@dataclass(frozen=True, slots=True)
class Section:
    """One mode."""

    mode: str
    created_at: str
    size: str
    sentences: tuple[str, ...]
    found: Findings
    figures: tuple[Figure, ...]
    errors: tuple[tuple[str, Errors], ...]
    """By the documents that they are of."""


def render(collection: str, every: Sequence[tuple[Calibration, Findings]]) -> str:
    """The whole page, with a section for each mode that was calibrated."""
    sections = [_section(calibration, found) for calibration, found in every]
    return fill("reliability.html", ["page.css"], "page.js", FILTERS, collection=collection, sections=sections)


def _section(calibration: Calibration, found: Findings) -> Section:
    reranked, unreranked = found.reranked.reliability, found.unreranked.reliability
    lines = [_line("calibrated", reranked, AFTER), _line("reranker's own", found.before, BEFORE)]
    figures = (
        _diagram("Reranked, before and after", lines, reranked),
        _diagram("Not reranked", [_line("calibrated", unreranked, AFTER)], unreranked),
        _orders(found),
    )
    sentences = (verdict.blend(found), verdict.reranking(found, calibration))
    errors = tuple(verdict.errors(found))
    size = verdict.size(found)
    return Section(calibration.mode, calibration.created_at, size, sentences, found, figures, errors)


def _diagram(title: str, lines: Sequence[plots.Line], measured: Reliability) -> Figure:
    """The reliability diagram: what was predicted against what came true."""
    hits = sorted({each.hits for each in measured.bins})
    caption = (
        f"Share of hits that are relevant by their predicted probability, of the first ten documents of each query: "
        f"{len(measured.bins)} bins of {' or '.join(map(str, hits))} hits, with 95 % intervals."
    )
    exact = plots.Line("exactly right", (plots.Point(0, 0, 0, 0), plots.Point(1, 1, 1, 1)), RIGHT)
    return Figure(title, caption, plots.curves([*lines, exact], "predicted probability", "relevant", caption))


def _line(name: str, measured: Reliability, series: int) -> plots.Line:
    points = (plots.Point(each.expected, each.seen.mean, each.seen.low, each.seen.high) for each in measured.bins)
    return plots.Line(name, tuple(points), series)


def _orders(found: Findings) -> Figure:
    rows = [
        plots.Row(each.name, each.ndcg.mean, each.ndcg.low, each.ndcg.high, _told(each.ndcg)) for each in found.orders
    ]
    caption = f"Mean {NDCG} of each way to score the candidates, with its 95 % interval."
    return Figure(
        "The order of the candidates", caption, plots.intervals([plots.Group("", tuple(rows))], NDCG, caption)
    )


def _told(estimate: Estimate) -> str:
    return f"{number(estimate.mean)}  [{interval(estimate)}]"
