"""A filter as a tree of conditions, and the SQL that finds what it allows.

Every condition becomes a look-up in an index of metadata_values, which yields a set of documents, and the tree says how
the sets combine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, assert_never

import apsw
import numpy as np
import orjson

from app.errors import Fault, InvalidFilter
from app.stores.documents import NEWEST
from app.stores.metadata import Kind, Scalar
from app.types import ChunkIds

MAX_PARAMETERS = 32_000
"""SQLite takes 32,766 in a statement."""

Comparison = Literal["<", "<=", ">", ">="]

Value: TypeAlias = str | int | float

Found = Literal["in a set", "one by one"]
"""How a look-up is done: once, gathering the documents that match, or for each document that is asked about."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A member at the path equals one of the values; null also stands for a path that does not exist."""

    path: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """A member at the path has the same kind as the value and lies on this side of it."""

    path: str
    comparison: Comparison
    value: Scalar


@dataclass(frozen=True, slots=True)
class Exists:
    """There is something at the path, or beneath it."""

    path: str


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


@dataclass(frozen=True, slots=True)
class And:
    """All of the parts; with none, every document."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Filter, ...]


Filter: TypeAlias = "AnyOf | Compared | Exists | Not | And | Or"


class Sql(NamedTuple):
    """A statement, or a piece of one, with the parameters that it names by `?`."""

    text: str
    parameters: tuple[Value, ...]


def matching_documents(db: apsw.Connection, wanted: Filter, collection: int) -> list[int]:
    """The newest versions of a collection's documents, in any state, as far as they match."""
    return [number for (number,) in db.execute(*select_documents(wanted, collection))]


def allowed_chunks(db: apsw.Connection, wanted: Filter, collection: int) -> ChunkIds:
    """The chunks of living documents that match, ascending."""
    # As one JSON array and sorted here: half the time of 100,000 sorted rows, each of which would retake the GIL.
    numbers = db.execute(*select_chunks(wanted, collection)).get
    return np.sort(np.array(orjson.loads(numbers), dtype=np.int64))


def select_documents(wanted: Filter, collection: int) -> Sql:
    condition = condition_of(wanted, collection)
    documents = f"SELECT number AS document FROM documents d WHERE collection = ? AND {NEWEST}"
    return Sql(f"SELECT document FROM ({documents}) given WHERE {condition.text}", (collection, *condition.parameters))


def select_chunks(wanted: Filter, collection: int) -> Sql:
    # Leaving out what does not live, rather than asking for what does, lets a selective condition lead: 0.1 ms, not 5.
    # By name: "state <> 'live'" would read the index of all documents, 15 ms of 300,000.
    living = (
        "NOT IN (SELECT number FROM documents WHERE collection = ? AND state IN ('pending', 'failed'))"
        if _is_bounded(wanted)
        else "IN (SELECT number FROM documents WHERE collection = ? AND state = 'live')"
    )
    condition = condition_of(wanted, collection)
    text = f"SELECT json_group_array(number) FROM chunks given WHERE given.document {living} AND {condition.text}"
    return Sql(text, (collection, *condition.parameters))


def condition_of(wanted: Filter | None, collection: int) -> Sql:
    """What has to be true of `given.document`."""
    condition = _condition(wanted or And(()), collection)
    if len(condition.parameters) > MAX_PARAMETERS:
        raise InvalidFilter("The filter is too large.", [Fault("/filter", "holds too many values: send fewer at once")])
    return condition


def _is_bounded(node: Filter) -> bool:
    """Whether each match is found in a look-up, and so belongs to the collection."""
    match node:
        case And(parts):
            return any(map(_is_bounded, parts))
        case Or(parts):
            return all(map(_is_bounded, parts))
        case AnyOf():
            return not _takes_missing(node)
        case Not():
            return False
        case _:
            return True


def _takes_missing(condition: AnyOf) -> bool:
    return any(value.kind == "null" for value in condition.values)


def _condition(node: Filter, collection: int, found: Found = "in a set") -> Sql:
    match node:
        case And(parts):
            return _all_of(parts, collection, found)
        case Or(parts):
            return _joined([_condition(part, collection, found) for part in parts], "OR")
        case Not(part):
            return _negated(_condition(part, collection, found))
        case AnyOf():
            return _any_of(node, collection, found)
        case Compared(path, comparison, value):
            test = f"path = ? AND kind = '{value.kind}' AND value {comparison} ?"
            return _looked_up(test, (path, value.value), collection, found)
        case Exists(path):
            return _exists(path, collection, found)
    assert_never(node)


def _all_of(parts: Sequence[Filter], collection: int, found: Found) -> Sql:
    """Beside an equality, which mostly leaves few documents, a range is tried on those instead of being gathered."""
    if any(isinstance(part, AnyOf) and not _takes_missing(part) for part in parts):
        found = "one by one"
    return _joined([_condition(part, collection, found) for part in parts], "AND")


def _any_of(condition: AnyOf, collection: int, found: Found) -> Sql:
    by_kind: dict[Kind, list[Value]] = {}
    for kind, value in condition.values:
        by_kind.setdefault(kind, []).append(value)
    parts = [_equal(condition.path, kind, values, collection) for kind, values in by_kind.items()]
    if _takes_missing(condition):
        parts.append(_negated(_exists(condition.path, collection, found)))
    return _joined(parts, "OR")


def _equal(path: str, kind: Kind, values: Sequence[Value], collection: int) -> Sql:
    # One JSON array and json_each would be a single parameter, but SQLite 3.51 reads one float in twelve an ulp off.
    test = f"path = ? AND kind = '{kind}' AND value IN ({', '.join('?' * len(values))})"
    return _looked_up(test, (path, *values), collection, "in a set")


def _exists(path: str, collection: int, found: Found) -> Sql:
    """The path itself, or one beneath it: those lie together between `path.` and `path/`, the next character."""
    here = _looked_up("path = ?", (path,), collection, found)
    beneath = _looked_up("path > ? AND path < ?", (f"{path}.", f"{path}/"), collection, found)
    return _joined([here, beneath], "OR")


def _looked_up(test: str, parameters: Sequence[Value], collection: int, found: Found) -> Sql:
    if found == "in a set":
        text = f"given.document IN (SELECT document FROM metadata_values WHERE collection = ? AND {test})"
    else:
        own = "metadata_values.document = given.document"
        text = f"EXISTS (SELECT 1 FROM metadata_values WHERE collection = ? AND {test} AND {own})"
    return Sql(text, (collection, *parameters))


def _negated(part: Sql) -> Sql:
    return Sql(f"NOT {part.text}", part.parameters)


def _joined(parts: Sequence[Sql], word: Literal["AND", "OR"]) -> Sql:
    """Joined in halves: a chain of a thousand would be deeper than SQLite allows an expression to be."""
    if not parts:
        return Sql("1" if word == "AND" else "0", ())
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    left, right = _joined(parts[:middle], word), _joined(parts[middle:], word)
    return Sql(f"({left.text} {word} {right.text})", left.parameters + right.parameters)
