"""Everything that can go wrong, as a tree. Status codes live at the edge, in api/problems.py.

WinnowError
├── Invalid                 the request can't be carried out as it stands; its errors say where and why
│   ├── InvalidFilter
│   ├── InvalidDocuments
│   └── InvalidRecipe
├── Unauthenticated         there are keys, and the request has none that opens
├── Forbidden               the caller may not do this
├── NotFound
├── Conflict
│   └── EncoderMismatch     the vectors at hand come from another model
├── TooLarge
│   └── HeadTooLarge        line and headers of a request
├── NoSpace                 the disk is full; it works again when there is room
├── NotInstalled            what was asked for is part of an extra
├── Overloaded              refused before any work; says when to come back
│   └── Spent               the key's tokens of this minute are spent
├── TimedOut
├── CallerLeft              nobody reads the answer; it is counted
├── Damaged                 what is on disk is not what was written there
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


class Unauthenticated(WinnowError): ...


class Forbidden(WinnowError):
    def __init__(self, message: str, scopes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.scopes = tuple(scopes)
        """Any of which would do."""


class NotFound(WinnowError): ...


class Conflict(WinnowError): ...


class EncoderMismatch(Conflict): ...


class TooLarge(WinnowError): ...


class HeadTooLarge(TooLarge): ...


class NoSpace(WinnowError): ...


class TooSlow(WinnowError): ...


class UnsupportedType(WinnowError): ...


class Overloaded(WinnowError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Spent(Overloaded): ...


class TimedOut(WinnowError): ...


class CallerLeft(WinnowError): ...


class NotInstalled(WinnowError): ...


class Damaged(WinnowError): ...


class Unavailable(WinnowError): ...


class StartupError(WinnowError): ...
