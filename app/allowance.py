"""How many tokens a key may have models read, and what one request takes of them.

    Allowance   fills by so many tokens a minute, up to a minute's worth
    Meter       of one request: what is set aside for it before its work, and what was read for it in the end

Texts count as if none were shared or remembered: what others have asked shows in nobody's figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic

from app.errors import Spent

CHARS = 8
"""More than a token has: so a text has one at least for so many characters, whatever reads it."""

PATIENCE = 60.0
"""Seconds that a request which is half done waits at most: what it takes a minute's worth to come."""


def at_least(texts: Iterable[str]) -> int:
    """Tokens that there must be in these."""
    return sum(len(text) // CHARS + 1 for text in texts)


class Allowance:
    """Its callers are of one event loop."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left, self._at = float(per_minute), clock()

    def left(self) -> float:
        """Below nothing where something cost more than was thought: the debt is paid before the next is let in."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self.per_minute / 60, self.per_minute)
        self._at = now
        return self._left

    def wait(self, tokens: int) -> float:
        """Seconds until there are so many; for more than a minute's worth, until there is a minute's worth."""
        return max(min(tokens, self.per_minute) - self.left(), 0) * 60 / self.per_minute

    def take(self, tokens: int) -> None:
        self._left = self.left() - tokens


class Meter:
    """Without an allowance it counts, and refuses nothing."""

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance
        self._aside = 0
        self.read = 0

    @property
    def left(self) -> int | None:
        return max(int(self._allowance.left()), 0) if self._allowance else None

    @property
    def per_minute(self) -> int | None:
        return self._allowance.per_minute if self._allowance else None

    def expect(self, tokens: int) -> None:
        """Spent, with the time until there is room, if there is none for so many. What is under way goes on."""
        begun = self._aside or self.read
        if self._allowance and tokens and not begun and (wait := self._allowance.wait(tokens)):
            raise _spent(self._allowance, wait)

    def set_aside(self, tokens: int) -> None:
        """Room for what is going to be read, or Spent."""
        self.expect(tokens)
        self._change(tokens, 0)

    def give_back(self, tokens: int) -> None:
        """What was set aside is done with, read or not."""
        self._change(-min(tokens, self._aside), 0)

    def count(self, tokens: int) -> None:
        """So many were read: of what was set aside, as far as that goes."""
        self._change(-min(tokens, self._aside), tokens)

    def pay(self, tokens: int) -> None:
        """For what is read later: the same, at once."""
        self.set_aside(tokens)
        self.count(tokens)

    async def save_up(self, tokens: int) -> None:
        """The same for a request that is half done: it goes on at the pace of its allowance, unless that is in debt."""
        while self._allowance and (wait := self._allowance.wait(tokens)):
            if wait > PATIENCE:
                raise _spent(self._allowance, wait)
            await asyncio.sleep(wait)
        self.count(tokens)

    def refund(self, tokens: int) -> None:
        """They were paid for, and will not be read."""
        self._change(0, -tokens)

    def _change(self, aside: int, read: int) -> None:
        self._aside, self.read = self._aside + aside, self.read + read
        if self._allowance:
            self._allowance.take(aside + read)


def _spent(allowance: Allowance, wait: float) -> Spent:
    most = allowance.per_minute
    return Spent(f"This key may have {most} tokens read a minute, and has; come back in {wait:.1f} s.", wait)
