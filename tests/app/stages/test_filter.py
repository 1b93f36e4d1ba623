"""Filters as callers send them: read, or refused with what to change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Fault, InvalidFilter
from app.stages.filter import EVERYTHING, LOGICAL, MAX_DEPTH, MAX_VALUES, OPERATORS, parse
from app.stores.filters import And, AnyOf, Compared, Exists, Not, Or
from app.stores.metadata import MAX_FAULTS, classify

Json = Any


def faults(raw: Json, max_conditions: int = 100) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFilter) as caught:
        parse(raw, max_conditions)
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


def equals(path: str, *values: Json) -> AnyOf:
    return AnyOf(path, tuple(map(classify, values)))


def test_a_bare_value_is_an_equality() -> None:
    assert parse({"year": 2020}, 9) == parse({"year": {"$eq": 2020}}, 9) == equals("year", 2020)


def test_several_fields_and_operators_must_all_hold() -> None:
    at_least, below = Compared("year", ">=", classify(2020)), Compared("year", "<", classify(2024))
    assert parse({"year": {"$gte": 2020, "$lt": 2024}}, 9) == And((at_least, below))
    assert parse({"year": {"$gte": 2020}, "lang": "en"}, 9) == And((at_least, equals("lang", "en")))


def test_logical_operators_combine_expressions() -> None:
    one, other = {"a": 1}, {"b": 2}
    assert parse({"$and": [one, other]}, 9) == And((equals("a", 1), equals("b", 2)))
    assert parse({"$or": [one, other]}, 9) == Or((equals("a", 1), equals("b", 2)))
    assert parse({"$not": one}, 9) == Not(equals("a", 1))


def test_not_stands_beneath_a_field_too() -> None:
    assert parse({"age": {"$not": {"$gte": 5}}}, 9) == Not(Compared("age", ">=", classify(5)))


def test_negated_operators_are_the_opposite_of_the_others() -> None:
    assert parse({"a": {"$ne": 1}}, 9) == Not(equals("a", 1))
    assert parse({"a": {"$nin": [1, "x"]}}, 9) == Not(equals("a", 1, "x"))
    assert parse({"a": {"$exists": False}}, 9) == Not(Exists("a"))


def test_values_of_a_list_are_kept_once() -> None:
    assert parse({"a": {"$in": [1, 1.0, True, "x", "x"]}}, 9) == equals("a", 1, True, "x")


def test_dates_compare_with_dates_and_other_strings_with_strings() -> None:
    dated, named = parse({"a": {"$gt": "2024-01-01"}}, 9), parse({"a": {"$gt": "2024"}}, 9)
    assert isinstance(dated, Compared)
    assert isinstance(named, Compared)
    assert (dated.value.kind, named.value.kind) == ("date", "string")


def test_an_empty_filter_allows_everything() -> None:
    assert parse({}, 9) == EVERYTHING


@pytest.mark.parametrize(
    ("raw", "pointer", "detail"),
    [
        ([], "", 'must be an object such as {"year": {"$gte": 2020}}, not a list'),
        (None, "", "not null"),
        ({"a": {}}, "/a", "is empty: give an operator, one of $eq, $ne"),
        ({"$and": {"a": 1}}, "/$and", "must be a list of expressions, not an object"),
        ({"$or": []}, "/$or", "must be a list of expressions, not an empty one"),
        ({"$and": [{"a": 1}, {}]}, "/$and/1", "is empty: name a field"),
        ({"$and": [{"a": 1}, 5]}, "/$and/1", "must be an object"),
        ({"$not": [{"a": 1}]}, "/$not", "must be an object"),
        ({"$and": [{"a": 1}, {"year": {"$gte": None}}]}, "/$and/1/year/$gte", "orders numbers, strings and dates"),
        ({"a": {"$lt": True}}, "/a/$lt", "not a boolean: use $eq or $ne"),
        ({"a": {"$gte": [1]}}, "/a/$gte", "is compared with one value, not a list: for any of several values use $in"),
        ({"a": [1, 2]}, "/a", "for any of several values use $in"),
        ({"a": {"$eq": {"b": 1}}}, "/a/$eq", "name its field as a.b"),
        ({"a": {"b": 1}}, "/a/b", 'for a field inside an object write "a.b"'),
        ({"a": {"$gte ": 1}}, "/a/$gte ", "is an unknown operator: did you mean $gte or $gt?"),
        ({"a": {"$GT": 1}}, "/a/$GT", "did you mean $gt or $gte?"),
        ({"a": {"$notin": [1]}}, "/a/$notin", "did you mean $not or $nin?"),
        ({"a": {"$regex": "x"}}, "/a/$regex", "is an unknown operator: there are $eq, $ne, $gt"),
        ({"$nor": [{"a": 1}]}, "/$nor", "did you mean $or or $not?"),
        ({"$where": "x"}, "/$where", "is an unknown operator: there are $and, $or, $not"),
        ({"$gte": 5}, "/$gte", 'stands beneath a field, as in {"year": {"$gte": ...}}'),
        ({"a": {"$or": [1]}}, "/a/$or", 'stands around fields, as in {"$or": [{"a": ...}, ...]}'),
        ({"a": {"$not": 5}}, "/a/$not", 'must be an object of operators such as {"$gte": 5}, not a number'),
        ({"a": {"$in": 5}}, "/a/$in", "must be a list of values, not a number"),
        ({"a": {"$in": []}}, "/a/$in", "must be a list of values, not an empty one"),
        ({"a": {"$nin": [1, [2]]}}, "/a/$nin/1", "is compared with one value, not a list"),
        ({"a": {"$in": ["x", float("nan")]}}, "/a/$in/1", "is not a finite number"),
        ({"a": {"$exists": 1}}, "/a/$exists", "must be true or false, not a number"),
        ({"a": "x\0"}, "/a", "U+0000"),
        ({"a": "\ud800"}, "/a", "half of a surrogate pair"),
        ({"a": 2**64}, "/a", "beyond 64 bits"),
        ({"": 1}, "/", "has an empty name in its path"),
        ({"a..b": 1}, "/a..b", "has an empty name in its path"),
        ({"a/~b": {"$x": 1}}, "/a~1~0b/$x", "is an unknown operator"),
        ({"a\x07": 1}, "/a\x07", "U+0007"),
        ({"a": {"\ud800": 1}}, "/a/\\ud800", "half of a surrogate pair"),
        ({"\ud800": 1}, "/\\ud800", "half of a surrogate pair"),
    ],
)
def test_a_bad_part_is_named_with_what_to_change(raw: Json, pointer: str, detail: str) -> None:
    ((where, why),) = faults(raw)
    assert where == "/filter" + pointer
    assert detail in why


def test_all_bad_parts_are_named_up_to_a_limit() -> None:
    raw = {"a": {"$gt": None, "$lt": 5}, "$or": [{"b": {"$x": 1}}, {"c": []}]}
    assert [where for where, _ in faults(raw)] == ["/filter/a/$gt", "/filter/$or/0/b/$x", "/filter/$or/1/c"]
    assert len(faults({"a": {"$in": [[]] * 1000}})) == MAX_FAULTS
    assert len(faults({"$and": [7] * 1000})) == MAX_FAULTS


def test_conditions_are_counted() -> None:
    assert parse({"$and": [{"a": {"$gt": 1, "$lt": 9}}, {"b": 2}]}, 3)
    ((where, why),) = faults({"$and": [{"a": {"$gt": 1, "$lt": 9}}, {"b": 2}]}, 2)
    assert (where, why) == ("/filter/$and/1/b", "is one condition too many: at most 2 are taken")


def test_values_of_lists_are_counted_over_the_whole_filter() -> None:
    half = {"$in": list(range(MAX_VALUES // 2))}
    assert parse({"a": half, "b": half}, 9)
    ((where, why),) = faults({"a": half, "b": half, "c": {"$in": [1]}})
    assert where == "/filter/c/$in"
    assert f"at most {MAX_VALUES}" in why


@pytest.mark.parametrize("wrap", [lambda inner: {"$not": inner}, lambda inner: {"$and": [inner]}])
def test_expressions_are_nested_so_deep_and_no_deeper(wrap: Any) -> None:
    raw: Json = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        raw = wrap(raw)
    assert parse(raw, 9)
    ((_, why),) = faults(wrap(raw))
    assert "nested deeper than 16 levels" in why


def test_not_beneath_a_field_is_nested_so_deep_and_no_deeper() -> None:
    operators: Json = {"$gt": 1}
    for _ in range(MAX_DEPTH - 1):
        operators = {"$not": operators}
    assert parse({"a": operators}, 9)
    ((_, why),) = faults({"a": {"$not": operators}})
    assert "nested deeper than 16 levels" in why


def test_a_bomb_of_nested_filters_is_refused_without_falling_into_it() -> None:
    raw: Json = {"a": 1}
    for _ in range(100_000):
        raw = {"$not": raw}
    assert len(faults(raw)) == 1


KEYS = st.sampled_from([*OPERATORS, *LOGICAL, "a", "a.b", "", ".", "$", "\ud800"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)


def faults_if_any(raw: Json) -> list[Fault]:
    try:
        parse(raw, 5)
    except InvalidFilter as refused:
        return list(refused.faults)
    return []


def resolve(document: Json, pointer: str) -> Json:
    """What the JSON pointer leads to; an error if that is nothing."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


SENDABLE = st.sampled_from(
    [*OPERATORS, *LOGICAL, "a", "a.b", "", ".", "$", "~", "/", "a/~b", "日本", "0", "e\u0301", "\x7f"]
)
FILTERS = st.dictionaries(
    SENDABLE,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**65), 2**65)
        | st.floats(allow_nan=False)
        | st.text("a$\0é", max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SENDABLE, inner, max_size=3),
        max_leaves=12,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400)
@given(FILTERS)
def test_every_fault_points_at_something_that_was_sent(raw: Json) -> None:
    for fault in faults_if_any(raw):
        resolve({"filter": raw}, fault.pointer)


@given(ANYTHING)
def test_anything_is_either_read_or_refused_in_words_that_can_be_sent(raw: Json) -> None:
    for fault in faults_if_any(raw):
        assert fault.pointer.startswith("/filter")
        assert fault.detail
        assert f"{fault.pointer}{fault.detail}".encode()
