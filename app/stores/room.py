"""Whether the disk has room. Who finds it full says so here, and others need not try until there is room again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from app.errors import NoSpace

logger = structlog.get_logger()

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PROBE = "room.partial"
PROBE_BYTES = 2**20


class Room:
    """The room beside the truth. Any thread may ask and tell."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lacking = False
        """Whether the last one who wrote found none; searches go on meanwhile."""

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Let what fails for want of room be told from other troubles."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise self.lack() from error
            raise

    def require(self) -> None:
        """Don't begin what is in vain."""
        if self.lacking:
            raise self.refusal()

    def lack(self) -> NoSpace:
        """Note that there is none; what to say to whom that concerns."""
        if not self.lacking:
            logger.error("the disk is full", folder=str(self._folder))
        self.lacking = True
        return self.refusal()

    def refusal(self) -> NoSpace:
        return NoSpace(
            "There is no room on the disk that holds the data: free some, and ask again. What was acknowledged is "
            "safe, and searches go on."
        )

    def probe(self) -> None:
        """Whether so many bytes can be written."""
        with self.needed():
            try:
                (self._folder / PROBE).write_bytes(bytes(PROBE_BYTES))
            finally:
                (self._folder / PROBE).unlink(missing_ok=True)  # where there is no room for a file at all

    def found(self) -> None:
        if self.lacking:
            logger.info("the disk has room again", folder=str(self._folder))
        self.lacking = False
