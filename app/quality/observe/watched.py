"""One collection under watch: what its searches told, and what second looks at some of them showed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from math import inf

from prometheus_client import Gauge

from app.quality.observe.depth import DepthWatch, Sounding
from app.quality.observe.drift import DriftWatch, kind_of, nearest, signals
from app.quality.observe.findings import findings
from app.quality.observe.lengths import LengthWatch
from app.quality.observe.lift import LiftWatch
from app.quality.observe.recall import RecallWatch
from app.quality.observe.types import LEAST, Counts, Figure, Report, figure
from app.quality.statistics import share
from app.telemetry import Metrics
from app.types import Vector
from app.witness import Beside, Sighting

WINDOW = 1000

RELEVANT = 0.5
"""A best hit that is less probably relevant is no good answer."""


class Watched:
    """Its figures, and the metrics that show them."""

    def __init__(
        self, name: str, number: int, recall: RecallWatch, drift: DriftWatch, reserve: int, metrics: Metrics
    ) -> None:
        self.name, self.number = name, number
        self.recall, self.drift, self.depth = recall, drift, DepthWatch()
        self.centre: Vector | None = None
        self.centred_at = -inf
        self._news = True
        self._lift, self._lengths = LiftWatch(), LengthWatch(reserve)
        self._unanswered: deque[bool] = deque(maxlen=WINDOW)
        self._outcomes: Counter[str] = Counter()
        self._metrics = metrics
        self._shown: dict[Gauge, set[str]] = {}
        metrics.long_queries.labels(name)
        for outcome in ("watched", "dropped", "compared", "exact", "changed", "gone", "deepened", "failed"):
            metrics.observed_queries.labels(name, outcome)

    def count(self, outcome: str) -> None:
        self._news = True
        self._outcomes[outcome] += 1
        self._metrics.observed_queries.labels(self.name, outcome).inc()

    def note(self, sighting: Sighting) -> bool:
        """Take in what a search tells; says whether there is a new reference to be kept."""
        self.count("watched")
        self._lift.add(sighting)
        self._lengths.add(sighting)
        self._unanswered.append(self._is_unanswered(sighting))
        self._measure(sighting)
        said = signals(sighting, self.centre)
        return said is not None and self.drift.add(kind_of(sighting), said)

    def refer(self) -> bool:
        """Take the searches of lately for the reference; says whether they were enough."""
        self._news = True
        return self.drift.refer()

    def compared(self, beside: Beside) -> None:
        self.count(beside.outcome)
        self.recall.add(beside.found)

    def sounded(self, sounding: Sounding) -> None:
        self.count("deepened")
        self.depth.add(sounding)
        self._metrics.depth_needed.labels(self.name).observe(sounding.needed)

    def report(self, waiting: int, takes: Callable[[int], float]) -> Report:
        known = Report(
            collection=self.name,
            counts=Counts(self._outcomes["watched"], waiting, dict(self._outcomes)),
            recall=self.recall.report(),
            depth=self.depth.report(takes),
            rerank=self._lift.report(),
            lengths=self._lengths.report(),
            drift=self.drift.report(),
            unanswered=self._unanswered_share,
            findings=[],
        )
        known.findings.extend(findings(known))
        return known

    def tell(self) -> None:
        """Set the gauges, if there is anything new."""
        if not self._news:
            return
        self._news, gauges, name = False, self._metrics, self.name
        gauges.index_ef.labels(name).set(self.recall.ef)
        recall, drift = self.recall.report(), self.drift.report()
        at = {str(k): found for k, found in recall.at.items() if found.searches >= LEAST} if recall else {}
        self._show(gauges.ann_recall, {k: found.value for k, found in at.items()})
        self._show(gauges.ann_recall_low, {k: found.low for k, found in at.items()})
        self._show(gauges.ann_recall_high, {k: found.high for k, found in at.items()})
        moved = {signal.name: signal for signal in drift.signals} if drift else {}
        self._show(gauges.drift, {each: signal.distance for each, signal in moved.items()})
        self._show(gauges.drift_null, {each: signal.null for each, signal in moved.items()})
        if (missed := self.depth.missed_share) is not None:
            gauges.depth_missed_share.labels(name).set(missed)
        if lift := self._lift.report():
            gauges.rerank_overlap.labels(name).set(lift.overlap.value)
            gauges.rerank_correlation.labels(name).set(lift.correlation.value)
            gauges.rerank_unchanged_share.labels(name).set(lift.unchanged.value)
        if scored := self._lengths.scored_share:
            gauges.scored_tokens_share.labels(name).set(scored.value)
        if unanswered := self._unanswered_share:
            gauges.unanswered_share.labels(name).set(unanswered.value)

    def _show(self, gauge: Gauge, values: Mapping[str, float]) -> None:
        """By k or by signal; what is known no more is shown no more."""
        for each in self._shown.get(gauge, set()) - values.keys():
            gauge.remove(self.name, each)
        for each, value in values.items():
            gauge.labels(self.name, each).set(value)
        self._shown[gauge] = set(values)

    @property
    def _unanswered_share(self) -> Figure | None:
        found = share(sum(self._unanswered), len(self._unanswered))
        return figure(found, len(self._unanswered)) if found else None

    def _is_unanswered(self, sighting: Sighting) -> bool:
        if not sighting.shown or not sighting.hits:
            return True
        best = max(sighting.hits, key=lambda hit: hit.score)
        if best.relevance is not None:
            return best.relevance < RELEVANT
        return self.drift.is_low(kind_of(sighting), best.score)

    def _measure(self, sighting: Sighting) -> None:
        """What goes into histograms."""
        if sighting.hits:
            self._metrics.top_score.labels(self.name).observe(max(hit.score for hit in sighting.hits))
        if (near := nearest(sighting)) is not None:
            self._metrics.query_distance.labels(self.name).observe(near)
        if sighting.query_tokens is not None:
            self._metrics.query_tokens.labels(self.name).observe(sighting.query_tokens)
        if self._lengths.is_long(sighting):
            self._metrics.long_queries.labels(self.name).inc()
