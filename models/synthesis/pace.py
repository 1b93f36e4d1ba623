"""Keeps to a server's limits: requests leave one after the other, spread evenly over the minute."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

MINUTE = 60.0


@dataclass(slots=True)
class Pace:
    """When the next request may leave. Without limits that is at once, unless the server asked for a pause."""

    requests: float | None = None
    """Requests a minute."""
    tokens: float | None = None
    """Tokens a minute, of prompts and answers together."""
    _free_at: float = field(default=0.0, init=False)

    async def admit(self, tokens: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Wait for this request's turn."""
        while (wait := self._free_at - monotonic()) > 0:  # others may go first, or a pause begin
            await sleep(wait)
        self._free_at = monotonic() + self.seconds(tokens)

    def owe(self, tokens: float) -> None:
        """Let the next request wait for tokens that came on top of what was expected."""
        if self.tokens and tokens > 0:
            self._free_at = max(self._free_at, monotonic()) + MINUTE * tokens / self.tokens

    def hold(self, seconds: float) -> None:
        """Let nobody go before so many seconds are over."""
        self._free_at = max(self._free_at, monotonic() + seconds)

    def seconds(self, tokens: float) -> float:
        """The share of a minute that a request of so many tokens takes up."""
        by_requests = MINUTE / self.requests if self.requests else 0.0
        by_tokens = MINUTE * tokens / self.tokens if self.tokens else 0.0
        return max(by_requests, by_tokens)
