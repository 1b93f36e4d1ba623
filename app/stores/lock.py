"""A readers-writer lock in which nobody starves: the standard library has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock


class SharedLock:
    """Many readers or one writer. Readers wait for one writer at most, a writer for the readers already inside."""

    def __init__(self) -> None:
        mutex = Lock()
        self._readers_turn = Condition(mutex)
        self._writers_turn = Condition(mutex)
        self._readers = 0
        self._waiting_readers = 0
        self._waiting_writers = 0
        self._writing = False
        self._round = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside other readers."""
        with self._readers_turn:
            if self._writing or self._waiting_writers:
                self._wait_for_next_round()
            else:
                self._readers += 1
        try:
            yield
        finally:
            with self._writers_turn:
                self._readers -= 1
                if not self._readers:
                    self._writers_turn.notify()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Alone."""
        with self._writers_turn:
            self._waiting_writers += 1
            self._writers_turn.wait_for(lambda: not self._writing and not self._readers)
            self._waiting_writers -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._readers_turn:
                self._writing = False
                self._admit_waiting_readers()

    def _wait_for_next_round(self) -> None:
        """The writer who leaves counts the waiting in, before a next writer can come."""
        self._waiting_readers += 1
        waiting_in = self._round
        self._readers_turn.wait_for(lambda: self._round != waiting_in)

    def _admit_waiting_readers(self) -> None:
        self._round += 1
        self._readers += self._waiting_readers
        self._waiting_readers = 0
        self._readers_turn.notify_all()
        if not self._readers:
            self._writers_turn.notify()
