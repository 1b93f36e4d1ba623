"""The nouns of synthesis and what can go wrong."""

from __future__ import annotations

from dataclasses import dataclass


class Unusable(Exception):
    """What was given can't be used; the message says what to change."""


class Stop(Exception):
    """The server's no to all further requests; the message says what to change."""


class Unreachable(Stop):
    """There is no server at the address."""


class CalledOff(Exception):
    """The run ended before a request was sent."""


class Failed(Exception):
    """One passage gets no questions; the others may."""


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody might type who needs the passage."""

    query: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a server read and wrote."""

    prompt: float = 0
    output: float = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.output + other.output)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.prompt - other.prompt, self.output - other.output)

    @property
    def total(self) -> float:
        return self.prompt + self.output


NOTHING = Usage()
