from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.quality import plots
from app.quality.plots import Bar, Group, Guide, Line, Part, Pin, Point, Row

measures = st.floats(-1, 1, allow_nan=False)
costs = st.floats(0.01, 1e6, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=60)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    low, value, high = sorted(draw(st.tuples(measures, measures, measures)))
    return Row(draw(texts), value, low, high, series=draw(st.integers(0, 20)))


@st.composite
def lines(draw: st.DrawFn) -> Line:
    places = sorted(draw(st.sets(costs, min_size=1, max_size=8)))
    heights = [sorted(draw(st.tuples(measures, measures, measures))) for _ in places]
    points = [Point(x, value, low, high) for x, (low, value, high) in zip(places, heights, strict=True)]
    return Line(draw(texts), tuple(points), draw(st.integers(0, 20)))


@given(drawn=st.lists(rows(), min_size=1, max_size=9), zero=st.booleans())
@example(drawn=[Row("as good as equal", 1e-38, 1e-294, 1e-38)], zero=False)
@example(drawn=[Row("as good as nothing", 5e-324, 5e-324, 5e-324)], zero=False)
def test_an_interval_contains_its_point_and_both_stay_in_the_frame(drawn: list[Row], zero: bool) -> None:
    plot = fromstring(plots.intervals([Group("group", tuple(drawn))], "axis", "alt", zero=zero))
    spans, marks = _of(plot, "span"), [_place(mark) for mark in _of(plot, "mark")]
    assert len(spans) == len(marks) == len(drawn)
    for span, (x, y) in zip(spans, marks, strict=True):
        assert _number(span, "x1") <= x <= _number(span, "x2")
        assert _number(span, "y1") == y
    _assert_framed(plot)


@given(st.lists(rows(), min_size=2, max_size=9))
def test_a_larger_value_stands_further_right(drawn: list[Row]) -> None:
    plot = fromstring(plots.intervals([Group("", tuple(drawn))], "axis", "alt"))
    found = sorted(zip((row.value for row in drawn), (_place(mark)[0] for mark in _of(plot, "mark")), strict=True))
    assert all(one[1] <= other[1] for one, other in pairwise(found))


@given(st.lists(rows(), min_size=1, max_size=5))
def test_where_zero_matters_it_is_drawn_between_losses_and_gains(drawn: list[Row]) -> None:
    plot = fromstring(plots.intervals([Group("", tuple(drawn))], "axis", "alt", zero=True))
    (zero,) = _of(plot, "zero")
    for row, mark in zip(drawn, _of(plot, "mark"), strict=True):
        assert (_place(mark)[0] - _number(zero, "x1")) * row.value >= -0.02


@given(st.lists(lines(), min_size=1, max_size=8), st.lists(measures, max_size=3), st.booleans())
def test_curves_rise_to_the_right_of_the_axis_and_stay_in_the_frame(
    drawn: list[Line], levels: list[float], log: bool
) -> None:
    point = drawn[0].points[-1]
    guides, pin = [Guide("ceiling", level) for level in levels], Pin("knee", point.x, point.value)
    plot = fromstring(plots.curves(drawn, "x", "y", "alt", guides=guides, pin=pin, log=log))
    assert len(_of(plot, "line")) == len(drawn)
    assert len(_of(plot, "guide")) == len(levels)
    for stroke in _of(plot, "line"):
        across = [x for x, _ in _points(stroke)]
        assert across == sorted(across)
    _assert_framed(plot)


@given(lines())
def test_a_band_contains_its_curve(drawn: Line) -> None:
    plot = fromstring(plots.curves([drawn], "x", "y", "alt"))
    (stroke,) = _of(plot, "line")
    for band in _of(plot, "band"):
        edge = _points(band)
        for upper, lower, middle in zip(edge, reversed(edge), _points(stroke), strict=False):
            assert upper[1] <= middle[1] <= lower[1]


@given(st.lists(st.lists(st.floats(0, 1e5), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_parts_of_a_bar_touch_and_their_widths_are_as_their_values(drawn: list[list[float]]) -> None:
    bars = [Bar("bar", tuple(Part(f"p{place}", each, place) for place, each in enumerate(parts))) for parts in drawn]
    plot = fromstring(plots.bars(bars, "ms", "alt"))
    laid = iter([part for part in _of(plot, "part") if _number(part, "height") == plots.ROW])
    for parts in drawn:
        placed = [next(laid) for _ in parts]
        for left, right in pairwise(placed):
            assert abs(_number(left, "x") + _number(left, "width") - _number(right, "x")) < 0.011
        for one, other in pairwise(sorted(zip(parts, (_number(each, "width") for each in placed), strict=True))):
            assert one[1] <= other[1] + 0.021, "a larger part is at least as wide"
    _assert_framed(plot)


@given(st.lists(measures, max_size=400))
def test_gains_stand_above_the_line_and_losses_below(values: list[float]) -> None:
    plot = fromstring(plots.changes(values, "change", "alt"))
    (zero,) = _of(plot, "zero")
    level = _number(zero, "y1")
    assert len(_of(plot, "gain")) == sum(value > 0 for value in values)
    assert len(_of(plot, "loss")) == sum(value < 0 for value in values)
    assert all(abs(_number(bar, "y") + _number(bar, "height") - level) < 0.02 for bar in _of(plot, "gain"))
    assert all(abs(_number(bar, "y") - level) < 0.02 for bar in _of(plot, "loss"))
    _assert_framed(plot)


@given(st.lists(st.floats(0, 300), max_size=20).map(sorted), st.floats(1, 30))
def test_names_are_moved_apart_in_their_order_and_within_their_room(wanted: list[float], gap: float) -> None:
    placed = plots.spread(wanted, gap, 0.0, 300.0)
    room = min(gap, 300 / max(len(wanted) - 1, 1))
    assert all(other - one >= room - 1e-6 for one, other in pairwise(placed))
    assert all(-1e-6 <= each <= 300 + 1e-6 for each in placed)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=5).map(sorted))
def test_names_that_have_room_stay_where_they_are(wanted: list[float]) -> None:
    assume(all(other - one >= 2 for one, other in pairwise(wanted)))
    assert plots.spread(wanted, 2.0, 0.0, 300.0) == pytest.approx(wanted, abs=1e-9)


@given(texts, texts)
def test_texts_are_written_as_texts(name: str, alt: str) -> None:
    plot = fromstring(plots.intervals([Group(f"<script>{name}", (Row(f"<b>{name}", 0.5, 0.4, 0.6),))], "axis", alt))
    assert plot.get("aria-label") == alt
    assert not list(plot.iter("script"))
    assert not list(plot.iter("b"))
    (heading,) = _of(plot, "heading")
    assert heading.text == f"<script>{name}"


def _of(plot: Element, kind: str) -> list[Element]:
    return [node for node in plot.iter() if kind in (node.get("class") or "").split()]


def _number(node: Element, name: str) -> float:
    return float(node.attrib[name])


def _place(mark: Element) -> tuple[float, float]:
    x, y = mark.attrib["transform"].removeprefix("translate(").removesuffix(")").split()
    return float(x), float(y)


def _points(node: Element) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in node.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def _places(plot: Element) -> Iterator[tuple[float, float]]:
    """Where anything is drawn."""
    for node in plot.iter():
        if node.get("transform"):
            yield _place(node)
        if node.get("points"):
            yield from _points(node)
        for x, y in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")):
            if node.get(x):
                yield _number(node, x), _number(node, y)
        if node.get("width") and node.get("x"):
            yield _number(node, "x") + _number(node, "width"), _number(node, "y") + _number(node, "height")


def _assert_framed(plot: Element) -> None:
    _, _, width, height = (float(each) for each in plot.attrib["viewBox"].split())
    for x, y in _places(plot):
        assert -0.01 <= x <= width + 0.01
        assert -0.01 <= y <= height + 0.01
