"""Everything that can go wrong, as a tree. Status codes live at the edge, in api/problems.py.

WinnowError
├── Invalid                 the request can't be carried out as it stands; its errors say where and why
│   ├── InvalidFilter
│   ├── InvalidDocuments
│   └── InvalidRecipe
├── NotFound
├── Conflict
│   └── EncoderMismatch     the vectors at hand come from another model
├── TooLarge
├── NotInstalled            what was asked for is part of an extra
├── Overloaded              refused before any work; says when to come back
├── TimedOut
├── CallerLeft              nobody reads the answer; it is counted
├── Unavailable             not now: starting, stopping, or a model that does not work
└── StartupError            the service can't start; the message says what to do
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request: a JSON pointer to it and what to change."""

    pointer: str
    detail: str


class WinnowError(Exception):
    """The root: its message is fit for the caller's eyes."""


class Malformed(WinnowError): ...


class Invalid(WinnowError):
    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class InvalidFilter(Invalid): ...


class InvalidDocuments(Invalid): ...


class InvalidRecipe(Invalid): ...


class NotFound(WinnowError): ...


class Conflict(WinnowError): ...


class EncoderMismatch(Conflict): ...


class TooLarge(WinnowError): ...


class TooSlow(WinnowError): ...


class UnsupportedType(WinnowError): ...


class Overloaded(WinnowError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TimedOut(WinnowError): ...


class CallerLeft(WinnowError): ...


class NotInstalled(WinnowError): ...


class Unavailable(WinnowError): ...


class StartupError(WinnowError): ...
