"""How long work tells its watcher where it stands."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """A screen, a log, or nobody."""

    def say(self, sentence: str) -> None:
        """Something happened that is worth a line."""

    def advance(self, what: str, done: int, total: int, note: str = "") -> None:
        """So much of the work of that name is done."""
