"""The nouns of the evaluation: what is read, and the tree of results that becomes JSON as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.types import Document

Judgements = Mapping[str, Mapping[str, int]]
"""Of each query the documents that someone judged, with their grades: above zero is relevant."""

Option = str | int | float | bool | None

BASE = "base"
"""The variant that the others are compared with."""


@dataclass(frozen=True, slots=True)
class Query:
    """What somebody asked."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Documents, questions, and who answers what. Every query in it has a relevant document."""

    name: str
    split: str
    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    judgements: Judgements
    notes: tuple[str, ...] = ()
    """What reading it left out."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one arm answers: for each query's id the documents' ids with their scores."""

    arm: str
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of one arm."""

    name: str
    estimate: Estimate
    values: tuple[float, ...] = ()
    """One for each query, in the order of the evaluation's queries; none where it is a mean over datasets."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one thing does than another on the same queries."""

    measure: str
    estimate: Estimate
    p: float
    """How often chance alone would make so large a difference (a paired randomisation test)."""
    adjusted: float
    """The same after Holm's correction for all the tests that are reported together."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way through the stages: `dense`, `lexical`, `fused`, or a first stage and a second, `dense+blend`."""

    name: str
    measures: tuple[Measure, ...]
    versus_dense: tuple[Difference, ...] = ()

    def measure(self, name: str) -> Measure:
        return next(measure for measure in self.measures if measure.name == name)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What no second stage can exceed: the relevant documents among a first stage's candidates."""

    first: str
    candidates: int
    recall: Estimate
    ndcg: Estimate
    """nDCG@10 when the candidates are put in the best order that there is."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What a stage takes for one query, in milliseconds."""

    stage: str
    p50: float
    p95: float
    queries: int
    stored: int = 0
    """How many of them were timed in an earlier run, since their results came from the cache."""


@dataclass(frozen=True, slots=True)
class Point:
    """Quality and cost with so many candidates."""

    candidates: float
    """In the mean, where each query has its own number."""
    ndcg: Estimate
    recall: Estimate
    tokens: float
    """What the cross-encoder reads for one query, in the mean."""
    milliseconds: float | None
    """What that takes by the measured rate; None where the rate is not known."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality against the cost of reranking."""

    arm: str
    points: tuple[Point, ...]
    knee: int
    """The number of candidates beyond which nothing is gained that can be told from chance."""
    rule: str
    """How the knee was found, in one sentence."""
    auto: Point
    """Up to the deepest, and for each query only as far as more could come among the ten best."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that is known of one variant on one dataset."""

    dataset: str
    split: str
    variant: str
    settings: Mapping[str, Option]
    """Models, their fingerprints, recipe, candidates and whatever else shapes the numbers."""
    documents: int
    chunks: int
    """0 where a running service was asked, which does not tell."""
    queries: tuple[Query, ...]
    served: str
    """The arm that a service with these models answers by."""
    arms: tuple[Arm, ...]
    ceilings: tuple[Ceiling, ...] = ()
    latencies: tuple[Latency, ...] = ()
    curves: tuple[Curve, ...] = ()
    warnings: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        return any(arm.name == name for arm in self.arms)

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


@dataclass(frozen=True, slots=True)
class Summary:
    """One variant over all datasets: each dataset counts the same, however many queries it has."""

    variant: str
    datasets: tuple[str, ...]
    arms: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against the base, by one arm."""

    dataset: str | None
    """None says that it is the mean over all datasets."""
    variant: str
    arm: str
    """Where each is served by an arm of its own, that of the variant against that of the base."""
    differences: tuple[Difference, ...]
    served: bool = True
    """Whether it is of what a service would answer with either."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one `winnow evaluate` found out."""

    created_at: str
    versions: Mapping[str, str]
    seed: int
    evaluations: tuple[Evaluation, ...]
    summaries: tuple[Summary, ...] = ()
    """Only where there are several datasets."""
    comparisons: tuple[Comparison, ...] = ()
