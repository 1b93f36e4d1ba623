"""Metadata laid flat: what may be said about a document, and the rows in which filters look it up.

A value stands under its dotted path (`author.name`), each member of a list in a row of its own, however
deep the lists and objects go. Positions in lists are not kept. An empty list or object leaves a row of kind `empty`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from math import isfinite
from typing import Literal, NamedTuple

from app.errors import Fault
from app.types import Metadata

Kind = Literal["string", "number", "boolean", "null", "date", "empty"]
"""Values of two kinds are never equal, nor is one less than the other."""

LONG = 512
"""Characters of a string that are kept for comparing: keys of many kilobytes would stand in two B-trees."""

MAX_FAULTS = 20
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ]([01][0-9]|2[0-3]):[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NUL = re.compile("\0")
SURROGATE = re.compile(r"[\ud800-\udfff]")
NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


class Scalar(NamedTuple):
    """A value as it is compared."""

    kind: Kind
    value: str | int | float


class Row(NamedTuple):
    """One value of a document, under its path."""

    path: str
    kind: Kind
    value: str | int | float


def flatten(metadata: Metadata) -> Iterator[Row]:
    """The rows of a document's metadata, each once."""
    yield from dict.fromkeys(_walk(metadata, ""))


def _walk(value: object, path: str) -> Iterator[Row]:
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from _walk(member, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for member in value:
            yield from _walk(member, path)
    elif not isinstance(value, dict | list):
        yield Row(path, *classify(value))
    elif path:
        yield Row(path, "empty", 0)


def merged(metadata: Metadata, changes: Metadata) -> Metadata:
    """Metadata with changes as JSON Merge Patch has them: objects are gone into, null takes a key away, all else takes
    the place of what there was."""
    made = dict(metadata)
    for key, change in changes.items():
        before = made.get(key)
        if change is None:
            made.pop(key, None)
        elif isinstance(change, dict):
            made[key] = merged(before if isinstance(before, dict) else {}, change)
        else:
            made[key] = change
    return made


def classify(value: object) -> Scalar:
    """How a value compares: the same for what is stored and for what a filter asks."""
    match value:
        case None:
            return Scalar("null", 0)
        case bool():
            return Scalar("boolean", int(value))
        case int():
            return Scalar("number", value if -(2**63) <= value < 2**63 else float(value))
        case float():
            return Scalar("number", value)
        case str():
            moment = instant(value)
            return Scalar("string", _shortened(value)) if moment is None else Scalar("date", moment)
    raise TypeError(f"{describe(value)} can't be compared")


def instant(text: str) -> int | None:
    """Microseconds since 1970 of an ISO 8601 date, so that dates compare across time zones; without one, in UTC."""
    if not DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)


def _shortened(text: str) -> str:
    """Equal only if the texts are; of two long ones that begin alike, the hash decides which is less."""
    return text if len(text) <= LONG else text[:LONG] + sha256(text.encode()).hexdigest()


def check_metadata(metadata: object, pointer: str, max_depth: int) -> list[Fault]:
    """What keeps this from being kept and found again; the first few, if much is wrong."""
    if not isinstance(metadata, dict):
        return [Fault(pointer, f"must be an object, not {describe(metadata)}")]
    return list(islice(_faults(metadata, pointer, max_depth), MAX_FAULTS))


def _faults(value: object, pointer: str, room: int) -> Iterator[Fault]:
    if not isinstance(value, dict | list):
        wrong = scalar_fault(value)
        if wrong:
            yield Fault(pointer, wrong)
    elif not room:
        yield Fault(pointer, "is nested too deep: bring its values up into the objects above")
    elif isinstance(value, dict):
        yield from _object_faults(value, pointer, room)
    else:
        for position, member in enumerate(value):
            yield from _faults(member, f"{pointer}/{position}", room - 1)


def _object_faults(members: dict[object, object], pointer: str, room: int) -> Iterator[Fault]:
    for key, member in members.items():
        if not isinstance(key, str):
            yield Fault(pointer, f"has a key that is {describe(key)}: keys are strings")
            continue
        wrong = _key_fault(key)
        if wrong:
            yield Fault(beneath(pointer, key), wrong)
        yield from _faults(member, beneath(pointer, key), room - 1)


def _key_fault(key: str) -> str | None:
    if not key:
        return "is an empty key: give it a name"
    if key.startswith("$"):
        return "has a key that starts with $, as operators of filters do: rename it"
    if "." in key:
        return "has a dot in its key, which filters read as a path: rename it, or nest an object"
    return text_fault(key, CONTROL)


def scalar_fault(value: object) -> str | None:
    """What keeps this from being a value that is kept and compared."""
    if isinstance(value, str):
        return text_fault(value, NUL)
    if isinstance(value, float) and not isfinite(value):
        return "is not a finite number: send null or leave it out"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "is an integer beyond 64 bits, which JSON readers round: send a string"
    if value is None or isinstance(value, int | float):
        return None
    return f"is {describe(value)}, which JSON does not have: send a string"


def text_fault(text: str, control: re.Pattern[str]) -> str | None:
    """What keeps this from being stored and sent as text."""
    if SURROGATE.search(text):
        return "holds half of a surrogate pair, which is not text: send whole characters"
    found = control.search(text)
    return f"holds the control character U+{ord(found[0]):04X}: remove it" if found else None


def beneath(pointer: str, key: str) -> str:
    """The JSON pointer to a member; half surrogates are spelt out, so that the pointer can always be sent."""
    sendable = key.encode("utf-8", "backslashreplace").decode()
    return f"{pointer}/{sendable.replace('~', '~0').replace('/', '~1')}"


def describe(value: object) -> str:
    """What JSON calls this."""
    return "null" if value is None else NAMES.get(type(value), f"a Python {type(value).__name__}")
