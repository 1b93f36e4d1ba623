"""What a caller sends as a filter, read into a tree of conditions.

The language is MongoDB's, as RAG frameworks send it: beneath a field `$eq $ne $gt $gte $lt $lte $in $nin $exists $not`;
around expressions: `$and $or $not`. A bare value means `$eq`; several entries of one object must all hold.

- On a list a condition holds if any member meets it; `$ne` and `$nin` hold if none is equal, or no field is there.
- `$eq: null` matches null and a field that is missing; `$ne: null` therefore a field that has a value.
- Ranges compare values of one kind: numbers, dates, or other strings (by code point). Strings that are full ISO 8601
  dates are dates, and compare as instants: without a zone in UTC, without a time at midnight.
- A dot leads into an object, and into every object of a list: `author.name`.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from app.errors import Fault, InvalidFilter
from app.stores.filters import And, AnyOf, Compared, Comparison, Exists, Filter, Not, Or
from app.stores.metadata import CONTROL, MAX_FAULTS, Scalar, beneath, classify, describe, scalar_fault, text_fault

MAX_DEPTH = 16
MAX_VALUES = 20_000
"""In all `$in` and `$nin` together."""

RANGES: dict[str, Comparison] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *RANGES, "$in", "$nin", "$exists", "$not")
LOGICAL = ("$and", "$or", "$not")
EVERYTHING = And(())


def parse(raw: object, max_conditions: int) -> Filter:
    """The filter as a tree; `{}` allows everything. Raises InvalidFilter, which names each part that is wrong."""
    reader = _Reader(max_conditions)
    found = reader.expression(raw, "/filter", 1) if raw != {} else EVERYTHING
    if reader.faults:
        raise reader.refusal()
    return found


class _Reader:
    """Reads one filter and collects what is wrong with it, up to a limit, so that no filter takes long to refuse."""

    def __init__(self, max_conditions: int) -> None:
        self.max_conditions = max_conditions
        self.conditions = 0
        self.values = 0
        self.faults: list[Fault] = []

    def refusal(self) -> InvalidFilter:
        return InvalidFilter("The filter can't be read.", self.faults)

    def expression(self, raw: object, pointer: str, depth: int) -> Filter:
        """An object of fields and logical operators."""
        if not isinstance(raw, dict):
            return self.fault(pointer, f'must be an object such as {{"year": {{"$gte": 2020}}}}, not {describe(raw)}')
        if not raw:
            return self.fault(pointer, "is empty: name a field, or leave it out")
        if depth > MAX_DEPTH:
            return self.fault(pointer, f"is nested deeper than {MAX_DEPTH} levels: flatten it")
        return _all_of([self.entry(str(key), value, beneath(pointer, str(key)), depth) for key, value in raw.items()])

    def entry(self, key: str, value: object, pointer: str, depth: int) -> Filter:
        if key in ("$and", "$or"):
            parts = self.parts(value, pointer, depth)
            return And(parts) if key == "$and" else Or(parts)
        if key == "$not":
            return Not(self.expression(value, pointer, depth + 1))
        if key.startswith("$"):
            return self.fault(pointer, _unknown_around(key))
        wrong = _path_fault(key)
        if wrong:
            return self.fault(pointer, wrong)
        if isinstance(value, dict):
            return self.operators(key, value, pointer, depth)
        return self.condition(key, "$eq", value, pointer)

    def parts(self, raw: object, pointer: str, depth: int) -> tuple[Filter, ...]:
        if isinstance(raw, list) and raw:
            return tuple(self.expression(part, f"{pointer}/{i}", depth + 1) for i, part in enumerate(raw))
        found = "an empty one" if raw == [] else describe(raw)
        return (self.fault(pointer, f"must be a list of expressions, not {found}"),)

    def operators(self, path: str, raw: dict[object, object], pointer: str, depth: int) -> Filter:
        """What must hold of one field."""
        if not raw:
            return self.fault(pointer, f"is empty: give an operator, one of {_listed(OPERATORS)}")
        if depth > MAX_DEPTH:
            return self.fault(pointer, f"is nested deeper than {MAX_DEPTH} levels: flatten it")
        parts: list[Filter] = []
        for key, operand in raw.items():
            within = beneath(pointer, str(key))
            if key == "$not" and isinstance(operand, dict):
                parts.append(Not(self.operators(path, operand, within, depth + 1)))
            else:
                parts.append(self.condition(path, str(key), operand, within))
        return _all_of(parts)

    def condition(self, path: str, operator: str, operand: object, pointer: str) -> Filter:
        self.count(pointer)
        match operator:
            case "$eq":
                return _any_of(path, [self.scalar(operand, pointer)])
            case "$ne":
                return Not(_any_of(path, [self.scalar(operand, pointer)]))
            case "$in":
                return self.member(path, operand, pointer)
            case "$nin":
                return Not(self.member(path, operand, pointer))
            case "$exists":
                return self.exists(path, operand, pointer)
            case "$not":
                detail = f'must be an object of operators such as {{"$gte": 5}}, not {describe(operand)}'
                return self.fault(pointer, f"{detail}: for a value use $ne")
        if operator in RANGES:
            return self.compared(path, operator, operand, pointer)
        return self.fault(pointer, _unknown_beneath(path, operator))

    def member(self, path: str, operand: object, pointer: str) -> Filter:
        if not isinstance(operand, list) or not operand:
            found = "an empty one" if operand == [] else describe(operand)
            return self.fault(pointer, f"must be a list of values, not {found}")
        self.values += len(operand)
        if self.values > MAX_VALUES:
            return self.fault(pointer, f"brings the filter to {self.values} values: at most {MAX_VALUES} are taken")
        return _any_of(path, [self.scalar(member, f"{pointer}/{i}") for i, member in enumerate(operand)])

    def exists(self, path: str, operand: object, pointer: str) -> Filter:
        if not isinstance(operand, bool):
            return self.fault(pointer, f"must be true or false, not {describe(operand)}")
        return Exists(path) if operand else Not(Exists(path))

    def compared(self, path: str, operator: str, operand: object, pointer: str) -> Filter:
        scalar = self.scalar(operand, pointer)
        if not scalar:
            return EVERYTHING
        if scalar.kind in ("boolean", "null"):
            return self.fault(pointer, f"orders numbers, strings and dates, not {describe(operand)}: use $eq or $ne")
        return Compared(path, RANGES[operator], scalar)

    def scalar(self, operand: object, pointer: str) -> Scalar | None:
        if isinstance(operand, dict | list):
            hint = "for any of several values use $in" if isinstance(operand, list) else "name its field as a.b"
            wrong: str | None = f"is compared with one value, not {describe(operand)}: {hint}"
        else:
            wrong = scalar_fault(operand)
        if wrong:
            self.fault(pointer, wrong)
            return None
        return classify(operand)

    def count(self, pointer: str) -> None:
        self.conditions += 1
        if self.conditions > self.max_conditions:
            self.faults.append(Fault(pointer, f"is one condition too many: at most {self.max_conditions} are taken"))
            raise self.refusal()

    def fault(self, pointer: str, detail: str) -> Filter:
        self.faults.append(Fault(pointer, detail))
        if len(self.faults) == MAX_FAULTS:
            raise self.refusal()
        return EVERYTHING


def _all_of(parts: Sequence[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _any_of(path: str, scalars: Sequence[Scalar | None]) -> Filter:
    return AnyOf(path, tuple(dict.fromkeys(scalar for scalar in scalars if scalar)))


def _path_fault(path: str) -> str | None:
    if not all(path.split(".")):
        return "has an empty name in its path: write fields as name or as outer.inner"
    return text_fault(path, CONTROL)


def _unknown_around(key: str) -> str:
    if key in OPERATORS:
        return f'stands beneath a field, as in {{"year": {{"{key}": ...}}}}'
    return f"is an unknown operator: {_did_you_mean(key, LOGICAL)}"


def _unknown_beneath(path: str, key: str) -> str:
    if not key.startswith("$"):
        wrong = text_fault(key, CONTROL)
        return wrong or f'is not an operator: for a field inside an object write "{path}.{key}"'
    if key in LOGICAL:
        return f'stands around fields, as in {{"{key}": [{{"{path}": ...}}, ...]}}'
    return f"is an unknown operator: {_did_you_mean(key, OPERATORS)}"


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key.lower().strip("$ "), [name[1:] for name in known], n=2)
    return f"did you mean ${' or $'.join(close)}?" if close else f"there are {_listed(known)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
