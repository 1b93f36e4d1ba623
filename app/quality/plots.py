"""Plots as inline SVG: four shapes carry the whole report. Colours come from the page, by the class of a series.

intervals   rows of a value with its confidence interval: stages side by side, and differences around zero
curves      lines over a scale, with guides and a marked point: recall by depth, quality by cost
bars        parts that add up: where the time of a search goes
changes     a thin bar for each query, up or down: what a mean hides
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

WIDTH = 760.0
LEFT = 176.0
"""Room for the names of rows."""
RIGHT = 178.0
"""Room for what stands behind a row or a line."""
TOP = 12.0
AXIS = 46.0
"""Room for ticks and the axis' name."""
ROW = 24.0
HEADING = 30.0
HEIGHT = 320.0
SHORT = 170.0
LINE_GAP = 16.0
NAME_CHARS = 24
PALETTE = 8
"""Series that have a colour of their own; beyond, colours come again and shapes tell apart."""

SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
    "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "M0 -6L6 0L0 6L-6 0Z",
    "M0 -5.5L5.5 4.5H-5.5Z",
    "M0 5.5L-5.5 -4.5H5.5Z",
)

Side = Literal["start", "middle", "end"]


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


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers to positions, along the axis from start to end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (self._even(each) for each in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 2)

    @property
    def ticks(self) -> list[float]:
        return _decades(self.low, self.high) if self.log else _steps(self.low, self.high)

    def _even(self, value: float) -> float:
        return math.log(value) if self.log else value


def intervals(groups: Sequence[Group], axis: str, alt: str, *, zero: bool = False) -> Markup:
    """Values with their intervals, a row each; with zero, around a line that says where no difference is."""
    rows = [row for group in groups for row in group.rows]
    bounds = [bound for row in rows for bound in (row.low, row.high, row.value)]
    scale = _scale([*bounds, *([0.0] if zero else [])], LEFT, WIDTH - RIGHT)
    marks, y = list[Element](), TOP
    for group in groups:
        marks += _heading(group.name, y)
        y += HEADING if group.name else 0.0
        for row in group.rows:
            marks += _row(row, scale, y + ROW / 2)
            y += ROW
    back = _columns(scale, axis, y) + ([_rule(scale(0.0), TOP, y)] if zero else [])
    return _svg(alt, y + AXIS, back + marks)


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
    x = _scale([point.x for point in points], 64.0, WIDTH - RIGHT, log=log)
    y = _scale(heights, HEIGHT, TOP + LINE_GAP)
    marks = _columns(x, x_axis, HEIGHT) + _levels(y, x, y_axis)
    marks += [mark for guide in guides for mark in _guide(guide, x, y)]
    marks += [mark for line in lines for mark in _line(line, x, y)]
    marks += _ends(lines, guides, x, y) + (_pin(pin, x, y) if pin else [])
    return _svg(alt, HEIGHT + AXIS, marks)


def bars(rows: Sequence[Bar], axis: str, alt: str) -> Markup:
    """Parts laid end to end, a bar each, all from zero; what the colours mean stands above."""
    scale = _scale([0.0, *(sum(part.value for part in bar.parts) for bar in rows)], LEFT, WIDTH - RIGHT)
    top = TOP + HEADING
    marks = [_node("g", *_key(rows), class_="key")]
    for place, bar in enumerate(rows):
        marks += _bar(bar, scale, top + place * (ROW + 6) + 3)
    bottom = top + len(rows) * (ROW + 6)
    return _svg(alt, bottom + AXIS, _columns(scale, axis, bottom, top) + marks)


def changes(values: Sequence[float], axis: str, alt: str) -> Markup:
    """Gains and losses in the order given, a bar each, around a line of no change."""
    x = Scale(0.0, max(len(values), 1), 64.0, WIDTH - 12.0)
    y = _scale([0.0, *values], SHORT, TOP + LINE_GAP)
    wide = round(max((x.end - x.start) / max(len(values), 1) - 1.0, 0.5), 2)
    marks = [_change(value, x(place), wide, y) for place, value in enumerate(values) if value]
    zero = _node("line", class_="zero", x1=x.start, x2=x.end, y1=y(0.0), y2=y(0.0))
    return _svg(alt, SHORT + TOP, [*_levels(y, x, axis), *marks, zero])


def shape(series: int) -> Markup:
    """The mark of a series, for a legend."""
    mark = _mark(series, 7.0, 7.0)
    return _text(_node("svg", mark, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true"))


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


def _scale(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that holds all values and begins and ends at a tick."""
    low, high = _range(list(values))
    if log:
        return Scale(low, high, start, end, log=True)
    step = _step(low, high)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-3):
        return low, high
    return (low, high * 2) if low > 0 else (low - 0.5, high + 0.5)


def _step(low: float, high: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, for about five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _steps(low: float, high: float) -> list[float]:
    step = _step(low, high)
    return [number * step for number in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [each for each in every if low * 0.999 <= each <= high * 1.001]


def _row(row: Row, scale: Scale, y: float) -> list[Element]:
    paint = f"s{row.series % PALETTE}"
    return [
        _name(row.name, y),
        _node("line", class_=f"span {paint}", x1=scale(row.low), x2=scale(row.high), y1=y, y2=y),
        _mark(row.series, scale(row.value), y, f"{row.name}: {row.note or _number(row.value)}"),
        _label(WIDTH - RIGHT + 14, y + 4, row.note, "start", "note"),
    ]


def _bar(bar: Bar, scale: Scale, y: float) -> list[Element]:
    marks, done = [_name(bar.name, y + ROW / 2)], 0.0
    for part in bar.parts:
        left, right = scale(done), scale(done + part.value)
        tip = _node("title", text=f"{bar.name}, {part.name}: {_number(part.value)}")
        paint, wide = f"part t{part.series % PALETTE}", round(right - left, 2)
        marks.append(_node("rect", tip, class_=paint, x=left, y=y, width=wide, height=ROW))
        if right - left > 7 * len(part.name) + 8:
            marks.append(_label((left + right) / 2, y + ROW / 2 + 4, part.name, "middle", "inside"))
        done += part.value
    return [*marks, _label(scale(done) + 10, y + ROW / 2 + 4, bar.note, "start", "note")]


def _key(rows: Sequence[Bar]) -> list[Element]:
    marks, x = list[Element](), LEFT
    for name, series in {part.name: part.series for bar in rows for part in bar.parts}.items():
        marks.append(_node("rect", class_=f"part t{series % PALETTE}", x=x, y=TOP, width=12, height=12))
        marks.append(_label(x + 18, TOP + 10, name, "start", "tick"))
        x += 36 + 7 * len(name)
    return marks


def _line(line: Line, x: Scale, y: Scale) -> list[Element]:
    paint = f"s{line.series % PALETTE}"
    upper = [(x(point.x), y(point.high)) for point in line.points]
    lower = [(x(point.x), y(point.low)) for point in reversed(line.points)]
    middle = [(x(point.x), y(point.value)) for point in line.points]
    band = [_node("polygon", class_=f"band {paint}", points=_path([*upper, *lower]))] if upper != lower[::-1] else []
    stroke = _node("polyline", class_=f"line {paint}", points=_path(middle))
    tips = (f"{line.name} at {_number(point.x)}: {point.value:.3f}" for point in line.points)
    dots = [_mark(line.series, *place, tip) for place, tip in zip(middle, tips, strict=True)]
    names = [
        _label(left, top - 13, point.name, "middle", "tick")
        for (left, top), point in zip(middle, line.points, strict=True)
    ]
    return [*band, stroke, *dots, *(name for name in names if name.text)]


def _change(value: float, x: float, wide: float, y: Scale) -> Element:
    top, bottom = sorted((y(value), y(0.0)))
    kind = "gain" if value > 0 else "loss"
    tip = _node("title", text=f"{value:+.3f}")
    return _node("rect", tip, class_=kind, x=x, y=top, width=wide, height=round(bottom - top, 2))


def _guide(guide: Guide, x: Scale, y: Scale) -> list[Element]:
    level = y(guide.value)
    return [_node("line", class_=f"guide s{guide.series % PALETTE}", x1=x.start, x2=x.end, y1=level, y2=level)]


def _ends(lines: Sequence[Line], guides: Sequence[Guide], x: Scale, y: Scale) -> list[Element]:
    """Names behind the right ends, moved apart where they would meet."""
    ends = [(y(line.points[-1].value), x(line.points[-1].x), line.name, line.series) for line in lines]
    ends = sorted([*ends, *((y(guide.value), x.end, guide.name, guide.series) for guide in guides)])
    marks = list[Element]()
    placed = spread([end[0] for end in ends], LINE_GAP, y.end, y.start)
    for (height, right, name, series), place in zip(ends, placed, strict=True):
        paint, low = f"s{series % PALETTE}", round(place, 2)
        marks.append(_node("line", class_=f"leader {paint}", x1=right + 6, y1=height, x2=x.end + 14, y2=low))
        marks.append(_label(x.end + 18, low + 4, _short(name), "start", f"end {paint}", name))
    return marks


def _pin(pin: Pin, x: Scale, y: Scale) -> list[Element]:
    left, height = x(pin.x), y(pin.value)
    side: Side = "end" if left > (x.start + x.end) / 2 else "start"
    text = _label(left + (-12 if side == "end" else 12), max(height - 14, TOP + 4), pin.name, side, "pin")
    return [
        _node("line", class_="drop", x1=left, x2=left, y1=height, y2=y.start),
        _node("circle", class_=f"ring s{pin.series % PALETTE}", cx=left, cy=height, r=9),
        text,
    ]


def _columns(scale: Scale, axis: str, bottom: float, top: float = TOP) -> list[Element]:
    """Grid lines with their numbers below, and the axis' name."""
    marks = list[Element]()
    for tick in _apart(scale):
        x = scale(tick)
        marks.append(_node("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        marks.append(_label(x, bottom + 18, _number(tick), "middle", "tick"))
    return [*marks, _label((scale.start + scale.end) / 2, bottom + 38, axis, "middle", "axis")]


def _levels(y: Scale, x: Scale, axis: str) -> list[Element]:
    marks = list[Element]()
    for tick in y.ticks:
        height = y(tick)
        marks.append(_node("line", class_="grid", x1=x.start, x2=x.end, y1=height, y2=height))
        marks.append(_label(x.start - 10, height + 4, _number(tick), "end", "tick"))
    return [*marks, _label(x.start - 44, TOP, axis, "start", "axis")]


def _apart(scale: Scale) -> list[float]:
    """The ticks whose numbers do not run into each other."""
    kept = scale.ticks[:1]
    for tick in scale.ticks[1:]:
        if abs(scale(tick) - scale(kept[-1])) >= 30:
            kept.append(tick)
    return kept


def _heading(name: str, y: float) -> list[Element]:
    return [_label(0, y + HEADING - 10, name, "start", "heading")] if name else []


def _name(name: str, y: float) -> Element:
    return _label(LEFT - 14, y + 4, _short(name), "end", "name", name)


def _rule(x: float, top: float, bottom: float) -> Element:
    return _node("line", class_="zero", x1=x, x2=x, y1=top, y2=bottom)


def _mark(series: int, x: float, y: float, tip: str = "") -> Element:
    tips = [_node("title", text=tip)] if tip else []
    outline = SHAPES[series % len(SHAPES)]
    return _node("path", *tips, class_=f"mark s{series % PALETTE}", transform=f"translate({x} {y})", d=outline)


def _label(x: float, y: float, text: str, side: Side, kind: str, tip: str = "") -> Element:
    tips = [_node("title", text=tip)] if tip and tip != text else []
    return _node("text", *tips, text=text, class_=kind, x=round(x, 2), y=round(y, 2), text_anchor=side)


def _svg(alt: str, height: float, marks: Sequence[Element]) -> Markup:
    return _text(_node("svg", *marks, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=alt, class_="plot"))


def _node(tag: str, *children: Element, text: str = "", **attributes: object) -> Element:
    node = Element(tag, {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()})
    node.text = text
    node.extend(children)
    return node


def _text(node: Element) -> Markup:
    """As HTML wants it: every element closed by a tag, every text escaped."""
    return Markup(tostring(node, encoding="unicode", short_empty_elements=False))


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"


def _number(value: float) -> str:
    """As few digits as tell it: 0.35, 20, 1,500."""
    told = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return told.replace("-", "\N{MINUS SIGN}")
