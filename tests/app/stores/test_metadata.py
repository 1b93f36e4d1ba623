"""Metadata laid flat, compared and refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stores.metadata import LONG, MAX_FAULTS, Row, check_metadata, classify, flatten

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner),
)

NO_DATES = (
    *("2024", "2024-01", "20240101", "2024-1-1", "2024-13-01", "2023-02-29", "0000-01-01", "2024-W01-1", "2024-01-01T"),
    *("2024-01-01T10", "2024-01-01T24:00", "2024-01-01T10:60", "2024-01-01T10:00:60", "2024-01-01T10:00:00."),
    *("2024-01-01Z", "2024-01-01T10:00+24:00", "2024-01-01T10:00 Z", "2024-01-01\n", " 2024-01-01", "\u0662024-01-01"),
)


def instant(text: str) -> float | int | str:
    """Seconds since 1970."""
    scalar = classify(text)
    assert scalar.kind == "date"
    return int(scalar.value) / 1e6


def test_nested_objects_are_found_under_dotted_paths() -> None:
    assert list(flatten({"author": {"name": "Ann", "age": 7}})) == [
        Row("author.name", "string", "Ann"),
        Row("author.age", "number", 7),
    ]


def test_members_of_lists_share_a_path_and_are_kept_once() -> None:
    assert list(flatten({"tags": ["a", "b", "a", 1, 1.0, True]})) == [
        Row("tags", "string", "a"),
        Row("tags", "string", "b"),
        Row("tags", "number", 1),
        Row("tags", "boolean", 1),
    ]


def test_lists_of_objects_and_lists_in_lists_are_walked_through() -> None:
    metadata = {"authors": [{"name": "Ann"}, {"name": "Bob"}], "grid": [[1], [2, [3]]]}
    assert list(flatten(metadata)) == [
        Row("authors.name", "string", "Ann"),
        Row("authors.name", "string", "Bob"),
        *(Row("grid", "number", n) for n in (1, 2, 3)),
    ]


@pytest.mark.parametrize("nothing", [{}, [], [{}], [[]]])
def test_an_empty_list_or_object_leaves_a_mark(nothing: object) -> None:
    assert list(flatten({"a": {"b": nothing}})) == [Row("a.b", "empty", 0)]


def test_no_metadata_leaves_no_rows() -> None:
    assert list(flatten({})) == []


@given(st.dictionaries(st.sampled_from(["a", "b"]), JSON))
def test_rows_are_distinct_and_every_key_can_be_found(metadata: dict[str, Any]) -> None:
    rows = list(flatten(metadata))
    assert len(rows) == len(set(rows))
    assert {row.path.split(".")[0] for row in rows} == set(metadata)


@pytest.mark.parametrize(
    ("value", "kind", "compared"),
    [
        (None, "null", 0),
        (True, "boolean", 1),
        (False, "boolean", 0),
        (1, "number", 1),
        (0.5, "number", 0.5),
        (2**63 - 1, "number", 2**63 - 1),
        (2**63, "number", 2.0**63),
        (-(2**63), "number", -(2**63)),
        (-(2**63) - 1, "number", -(2.0**63)),
        ("word", "string", "word"),
        ("", "string", ""),
    ],
)
def test_values_compare_by_kind(value: object, kind: str, compared: object) -> None:
    scalar = classify(value)
    assert (scalar.kind, scalar.value, type(scalar.value)) == (kind, compared, type(compared))


@pytest.mark.parametrize("text", NO_DATES)
def test_what_only_resembles_a_date_is_a_string(text: str) -> None:
    assert classify(text) == ("string", text)


@pytest.mark.parametrize("time", ["12:00", "12:00:00", "12:00:00.0", "12:00:00.000000000"])
@pytest.mark.parametrize("zone", ["", "Z", "+00:00", "+0000", "-00"])
@pytest.mark.parametrize("separator", ["T", " "])
def test_every_way_to_write_an_instant_is_the_same(time: str, zone: str, separator: str) -> None:
    assert instant(f"2024-01-01{separator}{time}{zone}") == datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["2024-01-01T14:00+02:00", "2024-01-01T17:30+0530", "2023-12-31T22:00:00-14"])
def test_dates_compare_across_zones(text: str) -> None:
    assert instant(text) == instant("2024-01-01T12:00Z")


def test_a_date_is_its_midnight_in_utc() -> None:
    assert instant("1970-01-02") == 86_400


@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "9999-12-31T23:59:59.999999-12:00"])
def test_the_first_and_the_last_date_are_dates(text: str) -> None:
    assert classify(text).kind == "date"


def test_long_strings_are_equal_only_if_they_are() -> None:
    one, other = "x" * (LONG + 100), "x" * (LONG + 99) + "y"
    assert classify(one) == classify("x" * (LONG + 100))
    assert classify(one) != classify(other)
    assert len({classify("x" * length) for length in range(LONG - 2, LONG + 3)}) == 5


def test_long_strings_are_ordered_by_their_beginning() -> None:
    ordered = ["x" * LONG, "x" * LONG + "a", "x" * (LONG - 1) + "y", "x" * (LONG - 1) + "ya", "y" * 2 * LONG]
    assert sorted(ordered, key=classify) == ordered


def test_only_scalars_are_compared() -> None:
    with pytest.raises(TypeError, match="a list can't be compared"):
        classify([])


@pytest.mark.parametrize(
    ("metadata", "pointer", "detail"),
    [
        ([], "", "must be an object, not a list"),
        (None, "", "must be an object, not null"),
        ({"": 1}, "/", "is an empty key: give it a name"),
        ({"$gt": 1}, "/$gt", "starts with $"),
        ({"a.b": 1}, "/a.b", "has a dot"),
        ({"a\n": 1}, "/a\n", "U+000A"),
        ({"a": {"b/~": {"": 1}}}, "/a/b~1~0/", "is an empty key"),
        ({1: 1}, "", "has a key that is a number"),
        ({"a": float("nan")}, "/a", "not a finite number"),
        ({"a": [0, float("-inf")]}, "/a/1", "not a finite number"),
        ({"a": 2**64}, "/a", "beyond 64 bits"),
        ({"a": 10**400}, "/a", "beyond 64 bits"),
        ({"a": datetime(2024, 1, 1)}, "/a", "is a Python datetime, which JSON does not have: send a string"),
        ({"a": b"x"}, "/a", "is a Python bytes"),
        ({"a": (1, 2)}, "/a", "is a Python tuple"),
        ({"a": "x\ud800"}, "/a", "half of a surrogate pair"),
        ({"\udfff": 1}, "/\\udfff", "half of a surrogate pair"),
        ({"a": "x\0"}, "/a", "U+0000"),
        ({"a": [[[1]]]}, "/a/0/0", "nested too deep"),
        ({"a": {"b": {"c": {}}}}, "/a/b/c", "nested too deep"),
    ],
)
def test_metadata_is_refused_where_it_is_wrong(metadata: object, pointer: str, detail: str) -> None:
    (fault,) = check_metadata(metadata, "/documents/0/metadata", 3)
    assert fault.pointer == "/documents/0/metadata" + pointer
    assert detail in fault.detail


def test_every_fault_is_named_up_to_a_limit() -> None:
    assert [fault.pointer for fault in check_metadata({"$a": float("nan"), "b": "\0"}, "", 8)] == ["/$a", "/$a", "/b"]
    assert len(check_metadata({"a": ["\0"] * 1000}, "", 8)) == MAX_FAULTS


def test_a_bomb_of_nested_lists_is_refused_without_falling_into_it() -> None:
    bomb: list[Any] = []
    for _ in range(100_000):
        bomb = [bomb]
    (fault,) = check_metadata({"a": bomb}, "", 8)
    assert fault.pointer == "/a" + "/0" * 7


@given(st.dictionaries(st.sampled_from(["a", "b"]), JSON))
def test_whatever_json_can_say_is_accepted(metadata: dict[str, Any]) -> None:
    assert check_metadata(metadata, "", 1000) == []


def test_tabs_and_line_breaks_may_stand_in_values() -> None:
    assert check_metadata({"a": "one\n\ttwo", "ключ": "значение"}, "", 8) == []
