"""What every plot stands in: a scale with its ticks, grid lines, labels and marks, and how they are written as SVG."""

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


NOTHING = 1e-12
"""Values that lie between 0 and this are all drawn as 0: a range of 5e-324 has no room for ticks."""


def fit(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that holds all values and begins and ends at a tick."""
    low, high = _range(list(values), log)
    if log:
        return Scale(low, high, start, end, log=True)
    step = _step(low, high)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-3):
        return low, high
    return (low, high * 2) if log or low > NOTHING else (low - 0.5, high + 0.5)


def _step(low: float, high: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, for about five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _steps(low: float, high: float) -> list[float]:
    step = _step(low, high)
    return [place * step for place in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [each for each in every if low * 0.999 <= each <= high * 1.001]


def columns(scale: Scale, axis: str, bottom: float, top: float = TOP) -> list[Element]:
    """Grid lines with their numbers below, and the axis' name."""
    marks = list[Element]()
    for tick in _apart(scale):
        x = scale(tick)
        marks.append(node("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        marks.append(label(x, bottom + 18, number(tick), "middle", "tick"))
    return [*marks, label((scale.start + scale.end) / 2, bottom + 38, axis, "middle", "axis")]


def levels(y: Scale, x: Scale, axis: str) -> list[Element]:
    """The same for what is read off the side."""
    marks = list[Element]()
    for tick in y.ticks:
        height = y(tick)
        marks.append(node("line", class_="grid", x1=x.start, x2=x.end, y1=height, y2=height))
        marks.append(label(x.start - 10, height + 4, number(tick), "end", "tick"))
    return [*marks, label(x.start - 44, TOP, axis, "start", "axis")]


def _apart(scale: Scale) -> list[float]:
    """The ticks whose numbers do not run into each other."""
    kept = scale.ticks[:1]
    for tick in scale.ticks[1:]:
        if abs(scale(tick) - scale(kept[-1])) >= 30:
            kept.append(tick)
    return kept


def mark(series: int, x: float, y: float, tip: str = "") -> Element:
    """Where a value is; colour and shape tell its series."""
    tips = [node("title", text=tip)] if tip else []
    outline = SHAPES[series % len(SHAPES)]
    return node("path", *tips, class_=f"mark s{series % PALETTE}", transform=f"translate({x} {y})", d=outline)


def label(x: float, y: float, text: str, side: Side, kind: str, tip: str = "") -> Element:
    tips = [node("title", text=tip)] if tip and tip != text else []
    return node("text", *tips, text=text, class_=kind, x=round(x, 2), y=round(y, 2), text_anchor=side)


def svg(alt: str, height: float, marks: Sequence[Element]) -> Markup:
    return markup(node("svg", *marks, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=alt, class_="plot"))


def node(tag: str, *children: Element, text: str = "", **attributes: object) -> Element:
    """An element; attributes whose names are Python's own end in an underscore."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()})
    made.text = text
    made.extend(children)
    return made


def markup(drawn: Element) -> Markup:
    """As HTML wants it: every element closed by a tag, every text escaped."""
    return Markup(tostring(drawn, encoding="unicode", short_empty_elements=False))


def number(value: float) -> str:
    """As few digits as tell it: 0.35, 20, 1,500."""
    told = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return told.replace("-", "\N{MINUS SIGN}")
