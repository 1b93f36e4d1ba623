"""What is known of a collection's searches: figures, each with its interval and how many searches it is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.quality.types import Estimate

Severity = Literal["warning", "advice", "info"]

LEAST = 50
"""Searches without which nothing is said about any."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over searches with its 95 % interval."""

    value: float
    low: float
    high: float
    searches: int


@dataclass(frozen=True, slots=True)
class Recall:
    """What the graph finds of the nearest chunks."""

    objective: float
    ef: int
    ef_configured: int
    tuned: bool
    """Whether the effort follows the objective."""
    exhausted: bool
    """The effort is as high as tuning lets it be."""
    at: dict[int, Figure]
    """By k."""


@dataclass(frozen=True, slots=True)
class Depth:
    """Where the best answers stand when more candidates are reranked."""

    candidates: int
    """How many searches have, as most of them do."""
    looked_at: int
    """How many were reranked in the mean to find out."""
    missed: Figure
    """Searches with one of the ten best answers beyond their candidates."""
    missed_answers: float
    """Share of the ten best that are beyond."""
    needed: int
    """Candidates that hold 95 % of the ten best."""
    costs_ms: float
    """What so many more, or fewer, would take, by the reranker's measured rate and the share of them that it reads."""


@dataclass(frozen=True, slots=True)
class Lift:
    """What reranking does to the ten best of the first stage."""

    overlap: Figure
    correlation: Figure
    unchanged: Figure


@dataclass(frozen=True, slots=True)
class Lengths:
    """How much the models see."""

    scored_share: Figure | None
    """Of the tokens of query and candidates; None where nothing was reranked."""
    cut: Figure | None
    """Searches that had a pair of which only a part was read."""
    query_median: float
    query_longest: int
    reserve: int
    long: Figure
    """Queries longer than the reserve."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How far a distribution has moved from that of the reference."""

    name: str
    distance: float
    null: float
    """What the distance stays below in 999 of 1000 cases if nothing has changed."""
    median: float
    reference_median: float
    moved: bool
    """The distance is above that."""
    searches: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Searches of lately beside those of the reference."""

    kind: str
    """The searches that are compared: those of one mode, with or without reranking."""
    since: str
    """When the reference was taken."""
    searches: int
    """Of the reference."""
    signals: list[Signal]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know, in plain words."""

    severity: Severity
    about: str
    text: str
    setting: str | None = None
    """What to change."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Searches that were watched, and what came of it."""

    watched: int
    waiting: int
    """For idle time, to be looked at once more."""
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of one collection. What is None is not known yet."""

    collection: str
    counts: Counts
    recall: Recall | None
    depth: Depth | None
    rerank: Lift | None
    lengths: Lengths | None
    drift: Drift | None
    unanswered: Figure | None
    findings: list[Finding]


def figure(estimate: Estimate, searches: int) -> Figure:
    return Figure(estimate.mean, estimate.low, estimate.high, searches)
