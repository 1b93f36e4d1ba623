"""Collections that are not open: why that is, how far they are with it, and what their caller can do."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import Conflict, Unavailable
from app.service.indexes import Indexes
from app.service.shelf import Shelf
from app.types import STANDBY


class Closed(dict[str, Exception]):
    """Why each is closed, by its name."""

    def __init__(self, shelves: Mapping[str, Shelf]) -> None:
        super().__init__()
        self.opening: dict[str, Indexes | None] = {}
        """Those that somebody is at work on, and what has to be read or built of them first."""
        self._shelves = shelves

    def is_given_up(self, name: str) -> bool:
        """Whether it can't be opened, and nobody tries any more."""
        return name in self and name not in self.opening

    def error(self, name: str) -> Exception:
        """What whoever asks for it is answered."""
        if progress := self._progress(name):
            return Unavailable(f"Collection '{name}': {progress}.")
        why, way_out = self[name], self._way_out(name)
        return type(why)(f"{why} {way_out}") if way_out and isinstance(why, Conflict | Unavailable) else why

    def troubles(self) -> dict[str, str]:
        return {name: self._progress(name) or str(self.error(name)) for name in self}

    def _progress(self, name: str) -> str:
        """How far those indexes are that have to be rebuilt first."""
        indexes = self.opening.get(name)
        return "; ".join(indexes.rebuilding) if indexes else ""

    def _way_out(self, name: str) -> str:
        """A standby has the same documents, and answers."""
        if not self.is_given_up(name) or f"{name}{STANDBY}" not in self._shelves:
            return ""
        return f"Or let its standby, which is open, take its place (POST /collections/{name}/switch)."
