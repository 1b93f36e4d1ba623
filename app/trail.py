"""The trail of a request: what leads from a metric to its log line, and to its trace where traces are sent.

Trail     its ids, and where its time went; `current()` finds it, in whatever task works for the request
Tracer    begins a trace for each request; app/traces.py has the one of OpenTelemetry
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

Facts = Mapping[str, str | int | float]
"""What a span says beside its name. Never a caller's text."""


class Trace(Protocol):
    """A request's span, and those that hang on it. A span is told of when it is over."""

    @property
    def id(self) -> str: ...

    def stage(self, name: str, seconds: float, facts: Facts) -> None:
        """A child, with links to the batches that the request rode in meanwhile."""

    def batch(self, riders: Sequence[Trace], name: str, seconds: float, facts: Facts) -> None:
        """A model batch that these requests shared, linked to all of them."""

    def end(self, name: str, facts: Facts, *, failed: bool) -> None: ...


class Tracer(Protocol):
    def begin(self, headers: Mapping[str, str]) -> Trace | None:
        """The trace that a request's headers name, or a new one; None where it is not sampled."""

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Trail:
    """Of the request under way."""

    request_id: str
    trace: Trace | None = None
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """By stage and part."""
    ids: dict[str, str] = field(init=False)
    """By which log lines and exemplars are found. Short enough for an exemplar, which may have 128 characters."""

    def __post_init__(self) -> None:
        self.ids = {"request_id": self.request_id} | ({"trace_id": self.trace.id} if self.trace else {})

    def stage(self, name: str, queued: float, computed: float) -> None:
        parts = self.seconds.setdefault(name, {"queue": 0.0, "compute": 0.0})
        parts["queue"] += queued
        parts["compute"] += computed
        if self.trace:
            facts = {"winnow.queue_seconds": queued, "winnow.compute_seconds": computed}
            self.trace.stage(name, queued + computed, facts)


_current: ContextVar[Trail | None] = ContextVar("trail", default=None)


def current() -> Trail | None:
    return _current.get()


@contextmanager
def leaving(trail: Trail) -> Iterator[None]:
    """Whatever is done or begun meanwhile is done for this request."""
    token = _current.set(trail)
    try:
        yield
    finally:
        _current.reset(token)


def riders() -> list[Trail]:
    """The requests that a model's work is done for, as far as they are traced: the one under way."""
    trail = current()
    return [trail] if trail and trail.trace else []


def tell_batch(trails: Sequence[Trail], name: str, seconds: float, facts: Facts) -> None:
    """Let the traces of these requests know of a batch that they shared."""
    if traces := list(dict.fromkeys(trail.trace for trail in trails if trail.trace)):
        traces[0].batch(traces, name, seconds, facts)
