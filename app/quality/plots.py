"""Plots as inline SVG: four shapes carry the whole report. Colours come from the page, by the class of a series.

intervals   rows of a value with its confidence interval: stages side by side, and differences around zero
curves      lines over a scale, with guides and a marked point: recall by depth, quality by cost
bars        parts that add up: where the time of a search goes
changes     a thin bar for each query, up or down: what a mean hides
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from app.quality import frame
from app.quality.frame import AXIS, LEFT, PALETTE, RIGHT, TOP, WIDTH, Scale, Side

ROW = 24.0
HEADING = 30.0
HEIGHT = 320.0
SHORT = 170.0
LINE_GAP = 16.0
NAME_CHARS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One value with its interval; the note stands behind it, in numbers."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""
    series: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together under one heading."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a curve; a point without an interval has its value three times."""

    x: float
    value: float
    low: float
    high: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve, its points from left to right: at least one."""

    name: str
    points: tuple[Point, ...]
    series: int = 0


@dataclass(frozen=True, slots=True)
class Guide:
    """A dashed level that curves can be compared with."""

    name: str
    value: float
    series: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """A point worth a name."""

    name: str
    x: float
    value: float
    series: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A share of a bar."""

    name: str
    value: float
    series: int = 0


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts that add up."""

    name: str
    parts: tuple[Part, ...]
    note: str = ""


def intervals(groups: Sequence[Group], axis: str, alt: str, *, zero: bool = False) -> Markup:
    """Values with their intervals, a row each; with zero, around a line that says where no difference is."""
    rows = [row for group in groups for row in group.rows]
    bounds = [bound for row in rows for bound in (row.low, row.high, row.value)]
    scale = frame.fit([*bounds, *([0.0] if zero else [])], LEFT, WIDTH - RIGHT)
    marks, y = list[Element](), TOP
    for group in groups:
        marks += _heading(group.name, y)
        y += HEADING if group.name else 0.0
        for row in group.rows:
            marks += _row(row, scale, y + ROW / 2)
            y += ROW
    back = frame.columns(scale, axis, y) + ([_rule(scale(0.0), TOP, y)] if zero else [])
    return frame.svg(alt, y + AXIS, back + marks)


def curves(
    lines: Sequence[Line],
    x_axis: str,
    y_axis: str,
    alt: str,
    *,
    guides: Sequence[Guide] = (),
    pin: Pin | None = None,
    log: bool = False,
) -> Markup:
    """Lines from left to right, named at their ends."""
    points = [point for line in lines for point in line.points]
    heights = [each for point in points for each in (point.low, point.high)] + [guide.value for guide in guides]
    x = frame.fit([point.x for point in points], 64.0, WIDTH - RIGHT, log=log)
    y = frame.fit(heights, HEIGHT, TOP + LINE_GAP)
    marks = frame.columns(x, x_axis, HEIGHT) + frame.levels(y, x, y_axis)
    marks += [mark for guide in guides for mark in _guide(guide, x, y)]
    marks += [mark for line in lines for mark in _line(line, x, y)]
    marks += _ends(lines, guides, x, y) + (_pin(pin, x, y) if pin else [])
    return frame.svg(alt, HEIGHT + AXIS, marks)


def bars(rows: Sequence[Bar], axis: str, alt: str) -> Markup:
    """Parts laid end to end, a bar each, all from zero; what the colours mean stands above."""
    scale = frame.fit([0.0, *(sum(part.value for part in bar.parts) for bar in rows)], LEFT, WIDTH - RIGHT)
    top = TOP + HEADING
    marks = [frame.node("g", *_key(rows), class_="key")]
    for place, bar in enumerate(rows):
        marks += _bar(bar, scale, top + place * (ROW + 6) + 3)
    bottom = top + len(rows) * (ROW + 6)
    return frame.svg(alt, bottom + AXIS, frame.columns(scale, axis, bottom, top) + marks)


def changes(values: Sequence[float], axis: str, alt: str) -> Markup:
    """Gains and losses in the order given, a bar each, around a line of no change."""
    x = Scale(0.0, max(len(values), 1), 64.0, WIDTH - 12.0)
    y = frame.fit([0.0, *values], SHORT, TOP + LINE_GAP)
    wide = round(max((x.end - x.start) / max(len(values), 1) - 1.0, 0.5), 2)
    marks = [_change(value, x(place), wide, y) for place, value in enumerate(values) if value]
    zero = frame.node("line", class_="zero", x1=x.start, x2=x.end, y1=y(0.0), y2=y(0.0))
    return frame.svg(alt, SHORT + TOP, [*frame.levels(y, x, axis), *marks, zero])


def shape(series: int) -> Markup:
    """The mark of a series, for a legend."""
    mark = frame.mark(series, 7.0, 7.0)
    return frame.markup(frame.node("svg", mark, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true"))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones (which ascend), at least a gap apart, or evenly as near as the room allows."""
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    placed = list[float]()
    for position in wanted:
        placed.append(max(position, placed[-1] + gap if placed else low))
    for place in reversed(range(len(placed))):
        limit = placed[place + 1] - gap if place + 1 < len(placed) else high
        placed[place] = min(placed[place], limit)
    return placed


def _row(row: Row, scale: Scale, y: float) -> list[Element]:
    paint = f"s{row.series % PALETTE}"
    return [
        _name(row.name, y),
        frame.node("line", class_=f"span {paint}", x1=scale(row.low), x2=scale(row.high), y1=y, y2=y),
        frame.mark(row.series, scale(row.value), y, f"{row.name}: {row.note or frame.number(row.value)}"),
        frame.label(WIDTH - RIGHT + 14, y + 4, row.note, "start", "note"),
    ]


def _bar(bar: Bar, scale: Scale, y: float) -> list[Element]:
    marks, done = [_name(bar.name, y + ROW / 2)], 0.0
    for part in bar.parts:
        left, right = scale(done), scale(done + part.value)
        tip = frame.node("title", text=f"{bar.name}, {part.name}: {frame.number(part.value)}")
        paint, wide = f"part t{part.series % PALETTE}", round(right - left, 2)
        marks.append(frame.node("rect", tip, class_=paint, x=left, y=y, width=wide, height=ROW))
        if right - left > 7 * len(part.name) + 8:
            marks.append(frame.label((left + right) / 2, y + ROW / 2 + 4, part.name, "middle", "inside"))
        done += part.value
    return [*marks, frame.label(scale(done) + 10, y + ROW / 2 + 4, bar.note, "start", "note")]


def _key(rows: Sequence[Bar]) -> list[Element]:
    marks, x = list[Element](), LEFT
    for name, series in {part.name: part.series for bar in rows for part in bar.parts}.items():
        marks.append(frame.node("rect", class_=f"part t{series % PALETTE}", x=x, y=TOP, width=12, height=12))
        marks.append(frame.label(x + 18, TOP + 10, name, "start", "tick"))
        x += 36 + 7 * len(name)
    return marks


def _line(line: Line, x: Scale, y: Scale) -> list[Element]:
    paint = f"s{line.series % PALETTE}"
    upper = [(x(point.x), y(point.high)) for point in line.points]
    lower = [(x(point.x), y(point.low)) for point in reversed(line.points)]
    middle = [(x(point.x), y(point.value)) for point in line.points]
    band = (
        [frame.node("polygon", class_=f"band {paint}", points=_path([*upper, *lower]))] if upper != lower[::-1] else []
    )
    stroke = frame.node("polyline", class_=f"line {paint}", points=_path(middle))
    tips = (f"{line.name} at {frame.number(point.x)}: {point.value:.3f}" for point in line.points)
    dots = [frame.mark(line.series, *place, tip) for place, tip in zip(middle, tips, strict=True)]
    names = [
        frame.label(left, top - 13, point.name, "middle", "tick")
        for (left, top), point in zip(middle, line.points, strict=True)
    ]
    return [*band, stroke, *dots, *(name for name in names if name.text)]


def _change(value: float, x: float, wide: float, y: Scale) -> Element:
    top, bottom = sorted((y(value), y(0.0)))
    kind = "gain" if value > 0 else "loss"
    tip = frame.node("title", text=f"{value:+.3f}")
    return frame.node("rect", tip, class_=kind, x=x, y=top, width=wide, height=round(bottom - top, 2))


def _guide(guide: Guide, x: Scale, y: Scale) -> list[Element]:
    level = y(guide.value)
    return [frame.node("line", class_=f"guide s{guide.series % PALETTE}", x1=x.start, x2=x.end, y1=level, y2=level)]


def _ends(lines: Sequence[Line], guides: Sequence[Guide], x: Scale, y: Scale) -> list[Element]:
    """Names behind the right ends, moved apart where they would meet."""
    ends = [(y(line.points[-1].value), x(line.points[-1].x), line.name, line.series) for line in lines]
    ends = sorted([*ends, *((y(guide.value), x.end, guide.name, guide.series) for guide in guides)])
    marks = list[Element]()
    placed = spread([end[0] for end in ends], LINE_GAP, y.end, y.start)
    for (height, right, name, series), place in zip(ends, placed, strict=True):
        paint, low = f"s{series % PALETTE}", round(place, 2)
        marks.append(frame.node("line", class_=f"leader {paint}", x1=right + 6, y1=height, x2=x.end + 14, y2=low))
        marks.append(frame.label(x.end + 18, low + 4, _short(name), "start", f"end {paint}", name))
    return marks


def _pin(pin: Pin, x: Scale, y: Scale) -> list[Element]:
    left, height = x(pin.x), y(pin.value)
    side: Side = "end" if left > (x.start + x.end) / 2 else "start"
    text = frame.label(left + (-12 if side == "end" else 12), max(height - 14, TOP + 4), pin.name, side, "pin")
    return [
        frame.node("line", class_="drop", x1=left, x2=left, y1=height, y2=y.start),
        frame.node("circle", class_=f"ring s{pin.series % PALETTE}", cx=left, cy=height, r=9),
        text,
    ]


def _heading(name: str, y: float) -> list[Element]:
    return [frame.label(0, y + HEADING - 10, name, "start", "heading")] if name else []


def _name(name: str, y: float) -> Element:
    return frame.label(LEFT - 14, y + 4, _short(name), "end", "name", name)


def _rule(x: float, top: float, bottom: float) -> Element:
    return frame.node("line", class_="zero", x1=x, x2=x, y1=top, y2=bottom)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"
