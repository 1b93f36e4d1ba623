"""What SQL answers to a filter, against a second reading of the same language in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import resources
from operator import ge, gt, le, lt
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidFilter
from app.stages.filter import EVERYTHING, parse
from app.stores.filters import (
    And,
    AnyOf,
    Exists,
    Filter,
    Not,
    Sql,
    allowed_chunks,
    matching_documents,
    select_chunks,
    select_documents,
)
from app.stores.metadata import classify, flatten
from app.types import Metadata

Json = Any

ORDERS: dict[str, Callable[[Any, Any], bool]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
DATES = ("2024-01-01", "2024-01-01T01:00:00+01:00", "2024-01-01 00:00Z", "2023-12-31T23:59:59.999999", "2024-06-30")
NUMBERS = (0, 1, -0.0, 1.0, 0.1, 0.30000000000000004, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, 2.0**63, -(2**63), 7,
           2**64 - 1, 2.0**64, 5e-324, -5e-324, 1.7976931348623157e308, 9.007199254740993e15)  # fmt: skip
TEXTS = ("", "a", "b", "1", "é", "e\u0301", "\U0001f600", "\uffff", "\u202ea", "null", "true", "2024", "2024-02-30",
         "x" * 512, "x" * 513)  # fmt: skip
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *TEXTS, *DATES])
KEYS = st.sampled_from(["a", "b", "a-", "a/", "é", "e\u0301", "日本", "0", " ", "'\""])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
METADATA = st.dictionaries(KEYS, VALUES, max_size=3)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(".".join)
ORDERED = SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
OPERATIONS = (
    st.tuples(st.sampled_from(["$eq", "$ne"]), SCALARS)
    | st.tuples(st.sampled_from(list(ORDERS)), ORDERED)
    | st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, min_size=1, max_size=4))
    | st.tuples(st.just("$exists"), st.booleans())
)
OPERATORS = st.recursive(
    st.lists(OPERATIONS, min_size=1, max_size=2).map(dict),
    lambda inner: inner.map(lambda operators: {"$not": operators}),
    max_leaves=2,
)
FILTERS = st.recursive(
    st.dictionaries(PATHS, SCALARS | OPERATORS, min_size=1, max_size=2),
    lambda inner: (
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1)
        | inner.map(lambda expression: {"$not": expression})
    ),
    max_leaves=5,
)


def matches(expression: Json, metadata: Metadata) -> bool:
    """The reference: reads the filter as it was sent, and the metadata as it was given."""
    return all(_holds(key, value, metadata) for key, value in expression.items())


def _holds(key: str, value: Json, metadata: Metadata) -> bool:
    if key == "$not":
        return not matches(value, metadata)
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(matches(part, metadata) for part in value)
    operators = value if isinstance(value, dict) else {"$eq": value}
    return _meets(operators, list(_reached(metadata, key.split("."))))


def _meets(operators: Json, nodes: list[Json]) -> bool:
    return all(_test(operator, operand, nodes) for operator, operand in operators.items())


def _test(operator: str, operand: Json, nodes: list[Json]) -> bool:
    members = [_comparable(member) for node in nodes for member in _members(node)]
    match operator:
        case "$not":
            return not _meets(operand, nodes)
        case "$exists":
            return bool(nodes) is operand
        case "$eq":
            return _comparable(operand) in members or (operand is None and not nodes)
        case "$in":
            return any(_test("$eq", value, nodes) for value in operand)
        case "$ne" | "$nin":
            return not _test("$eq" if operator == "$ne" else "$in", operand, nodes)
    kind, value = _comparable(operand)
    return any(ORDERS[operator](member, value) for its_kind, member in members if its_kind == kind)


def _reached(node: Json, names: list[str]) -> Iterator[Json]:
    if not names:
        yield node
    elif isinstance(node, list):
        for member in node:
            yield from _reached(member, names)
    elif isinstance(node, dict) and names[0] in node:
        yield from _reached(node[names[0]], names[1:])


def _members(node: Json) -> Iterator[Json]:
    if isinstance(node, list):
        for member in node:
            yield from _members(member)
    elif not isinstance(node, dict):
        yield node


def _comparable(value: Json) -> tuple[str, Json]:
    if isinstance(value, str) and value in DATES:
        moment = datetime.fromisoformat(value)
        return "date", moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", float(value) if abs(value) >= 2**63 else value
    return type(value).__name__, value


@pytest.fixture(scope="module")
def db() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.execute(resources.files("app.stores").joinpath("schema.sql").read_text())
    yield connection
    connection.close()


def store(
    db: apsw.Connection, number: int, metadata: Metadata, *, collection: int = 1, state: str = "live", name: str = ""
) -> None:
    """A document with two chunks."""
    db.execute(
        "INSERT INTO documents (number, collection, id, state, content, title, text, metadata, created_at,"
        " chunks, bytes) VALUES (?, ?, ?, ?, x'', '', '', '{}', '', 2, 0)",
        (number, collection, name or f"document {number}", state),
    )
    db.executemany("INSERT INTO metadata_values VALUES (?, ?, ?, ?, ?)", _rows(collection, metadata, number))
    db.executemany(
        'INSERT INTO chunks (number, document, start, "end", tokens, text) VALUES (?, ?, 0, 0, 0, ?)',
        [(chunk, number, "") for chunk in chunks_of(number)],
    )


def chunks_of(*documents: int) -> list[int]:
    """Ascending; chunks of later documents stand before and after those of earlier ones."""
    return sorted(chunk for number in documents for chunk in (1000 + number, 1000 - number))


def _rows(collection: int, metadata: Metadata, number: int) -> list[tuple[Any, ...]]:
    return [(collection, *row, number) for row in flatten(metadata)]


def put(db: apsw.Connection, *documents: Metadata) -> None:
    for table in ("metadata_values", "chunks", "documents"):
        db.execute(f"DELETE FROM {table}")
    for number, metadata in enumerate(documents, 1):
        store(db, number, metadata)


def found(db: apsw.Connection, raw: Json) -> list[int]:
    return sorted(matching_documents(db, parse(raw, 100), 1))


@settings(max_examples=300, deadline=None)
@given(documents=st.lists(METADATA, min_size=1, max_size=5), raw=FILTERS)
def test_sql_answers_as_a_plain_reading_does(db: apsw.Connection, documents: list[Metadata], raw: Json) -> None:
    put(db, *documents)
    for number, metadata in enumerate(documents, 101):
        store(db, number, metadata, collection=2)
    expected = [number for number, metadata in enumerate(documents, 1) if matches(raw, metadata)]
    assert found(db, raw) == expected
    assert allowed_chunks(db, parse(raw, 100), 1).tolist() == chunks_of(*expected)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"year": 2020}, [1]),
        ({"year": {"$eq": 2020.0}}, [1]),
        ({"year": "2020"}, [4]),
        ({"year": {"$ne": 2020}}, [2, 3, 4]),
        ({"year": {"$gt": 2020}}, [2]),
        ({"year": {"$gte": 2020, "$lt": 2024}}, [1]),
        ({"year": {"$in": [2020, "2020"]}}, [1, 4]),
        ({"year": {"$nin": [2020, "2020"]}}, [2, 3]),
        ({"year": None}, [3]),
        ({"year": {"$exists": False}}, [3]),
        ({"author": {"$exists": True}}, [1]),
        ({"author.name": "Ann"}, [1]),
        ({"tags": "red"}, [1, 2]),
        ({"tags": {"$ne": "red"}}, [3, 4]),
        ({"tags": {"$exists": True}}, [1, 2, 4]),
        ({"open": True}, [1]),
        ({"open": 1}, [2]),
        ({"at": {"$gte": "2024-01-01", "$lte": "2024-01-01T00:30:00Z"}}, [2, 3]),
        ({"year": {"$not": {"$gte": 2021}}}, [1, 3, 4]),
        ({"$not": {"tags": "red", "year": 2020}}, [2, 3, 4]),
        ({"$or": [{"year": 2024}, {"open": True}]}, [1, 2]),
        ({"$and": [{"tags": "red"}, {"tags": "blue"}]}, [1]),
        ({"tags": "red", "year": {"$gt": 2020}}, [2]),
    ],
)
def test_each_operator_finds_what_it_says(db: apsw.Connection, raw: Json, expected: list[int]) -> None:
    put(
        db,
        {"year": 2020, "tags": ["red", "blue"], "open": True, "author": {"name": "Ann"}, "at": "2023-12-31"},
        {"year": 2024, "tags": ["red"], "open": 1, "at": "2024-01-01T01:00:00+01:00"},
        {"open": None, "at": "2024-01-01T00:15:00"},
        {"year": "2020", "tags": []},
    )
    assert found(db, raw) == expected


@pytest.mark.parametrize("raw", [{}, {"a": 1}, {"a": {"$ne": 2}}, {"a": {"$gt": 0}, "b": None}])
def test_only_living_documents_of_the_collection_are_searched(db: apsw.Connection, raw: Json) -> None:
    put(db, {"a": 1})
    store(db, 2, {"a": 1}, collection=2)
    store(db, 3, {"a": 1}, state="pending")
    store(db, 4, {"a": 1}, state="failed")
    assert allowed_chunks(db, parse(raw, 9), 1).tolist() == chunks_of(1)
    assert found(db, raw) == [1, 3, 4]


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_of_a_document_the_newest_version_is_matched_and_the_living_one_searched(
    db: apsw.Connection, state: str
) -> None:
    put(db)
    for collection, older, newer in ((1, 1, 2), (2, 3, 4)):
        store(db, older, {"a": "old"}, collection=collection, name="one")
        store(db, newer, {"a": "new"}, collection=collection, name="one", state=state)
    store(db, 5, {"a": "old"}, name="another")
    assert found(db, {"a": "old"}) == [5]
    assert found(db, {"a": "new"}) == [2]
    assert found(db, {"a": {"$ne": "new"}}) == [5]
    assert allowed_chunks(db, parse({"a": "old"}, 9), 1).tolist() == chunks_of(1, 5)


def test_ten_thousand_values_are_taken(db: apsw.Connection) -> None:
    put(db, {"n": 9_999}, {"n": 10_000}, {"n": "9999"}, {"n": 0.5})
    assert found(db, {"n": {"$in": [0.5, *range(10_000)]}}) == [1, 4]


def test_more_values_than_sqlite_takes_are_refused(db: apsw.Connection) -> None:
    with pytest.raises(InvalidFilter) as caught:
        matching_documents(db, AnyOf("n", tuple(map(classify, range(40_000)))), 1)
    assert caught.value.faults[0].pointer == "/filter"


def test_a_thousand_conditions_sixteen_deep_are_taken(db: apsw.Connection) -> None:
    put(db, {"n": 7}, {"n": 5000})
    raw: Json = {"$or": [{"n": {"$in": [n, "x"], "$gte": 0}} for n in range(1000)]}
    for _ in range(14):
        raw = {"$and": [{"$not": {"n": 5000}}, raw]}
    assert sorted(matching_documents(db, parse(raw, 10_000), 1)) == [1]


@pytest.mark.parametrize("path", ["a' OR 1=1 --", 'a"b', "?", ":x", "a;DROP TABLE documents"])
def test_what_a_caller_writes_is_never_sql(db: apsw.Connection, path: str) -> None:
    put(db, {path: "' OR '1'='1"}, {"b": 1})
    assert found(db, {path: "' OR '1'='1"}) == [1]
    assert found(db, {path: {"$gt": path}}) == []


def plan(db: apsw.Connection, statement: Sql) -> list[str]:
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement.text}", statement.parameters)]


@pytest.mark.parametrize(
    "raw",
    [
        {"a": 1},
        {"a": {"$in": [1, "x", True, "2024-01-01"]}},
        {"a": {"$gte": 1}},
        {"a": {"$exists": True}},
        {"a": None},
        {"a": 1, "b": {"$lt": 5}, "c": {"$exists": False}},
        {"$not": {"a": {"$gt": 5}}},
    ],
)
def test_every_condition_is_looked_up_in_an_index(db: apsw.Connection, raw: Json) -> None:
    wanted = parse(raw, 9)
    for statement in (select_documents(wanted, 1), select_chunks(wanted, 1)):
        lookups = [step for step in plan(db, statement) if "metadata_values" in step]
        assert lookups
        assert all(step.startswith("SEARCH") and "AND path" in step for step in lookups)


@pytest.mark.parametrize("raw", [{"a": 1}, {"a": 1, "b": {"$lt": 5}}, {"$or": [{"a": 1}, {"b": {"$gt": 2}}]}])
def test_a_selective_filter_visits_only_what_it_finds(db: apsw.Connection, raw: Json) -> None:
    steps = plan(db, select_chunks(parse(raw, 9), 1))
    assert any(step.startswith("SEARCH given") for step in steps)
    assert not any("documents" in step and step.endswith("(collection=?)") for step in steps)


def test_a_range_beside_an_equality_is_tried_document_by_document(db: apsw.Connection) -> None:
    steps = plan(db, select_chunks(parse({"a": 1, "b": {"$lt": 5}}, 9), 1))
    assert any("metadata_values_by_document (document=? AND collection=? AND path=?" in step for step in steps)


def test_without_conditions_everything_is_allowed(db: apsw.Connection) -> None:
    put(db, {}, {"a": 1})
    everything: list[Filter] = [EVERYTHING, And(()), Not(Exists("gone"))]
    assert [allowed_chunks(db, wanted, 1).tolist() for wanted in everything] == [chunks_of(1, 2)] * 3
