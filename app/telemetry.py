"""What the service tells of itself: Prometheus metrics, and a stopwatch that every stage runs under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Pipeline = Literal["search", "ingest", "rerank", "embed"]

STAGE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
TOKEN_BUCKETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SHARE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


class Metrics:
    """All metrics of one service, in a registry of its own: two services in one process do not mix."""

    def __init__(self) -> None:
        """A counter whose labels are known begins at 0, since an increase from nothing shows on no graph."""
        self.registry = CollectorRegistry()
        r = self.registry
        self.stage_seconds = Histogram(
            "winnow_stage_seconds",
            "Time that one request spent in a stage: waiting for the model (queue) and being worked on (compute)",
            ["pipeline", "stage", "part"],
            buckets=STAGE_BUCKETS,
            registry=r,
        )
        self.request_seconds = Histogram(
            "winnow_request_seconds",
            "Time from a request's arrival to its answer",
            ["route", "status"],
            buckets=STAGE_BUCKETS,
            registry=r,
        )
        self.batch_tokens = Histogram(
            "winnow_batch_tokens",
            "Tokens that one model batch computed, padding included",
            ["model", "lane"],
            buckets=TOKEN_BUCKETS,
            registry=r,
        )
        self.batch_padding = Histogram(
            "winnow_batch_padding_share",
            "Share of a model batch that was padding",
            ["model", "lane"],
            buckets=SHARE_BUCKETS,
            registry=r,
        )
        self.queue_tokens = Gauge(
            "winnow_queue_tokens", "Tokens admitted and not yet computed", ["model", "lane"], registry=r
        )
        self.refusals = Counter(
            "winnow_refusals_total",
            "Requests refused before any work, by the model that was full",
            ["model"],
            registry=r,
        )
        self.abandoned = Counter(
            "winnow_abandoned_total",
            "Texts that were never computed because their caller had left",
            ["model"],
            registry=r,
        )
        self.out_of_memory = Counter(
            "winnow_out_of_memory_total",
            "Batches that the device had no memory for; they were computed in halves",
            ["model"],
            registry=r,
        )
        self.texts = Counter(
            "winnow_texts_total",
            "Texts that searches asked of a model: computed for them, shared with another search, or remembered",
            ["model", "source"],
            registry=r,
        )
        self.truncations = Counter(
            "winnow_truncated_texts_total", "Texts of which a model saw only a part", ["stage"], registry=r
        )
        self.windowed = Counter("winnow_windowed_texts_total", "Texts that the reranker read in windows", registry=r)
        self.degraded = Counter(
            "winnow_degraded_answers_total",
            "Answers that a stage had no time to finish, and that say so",
            ["stage", "reason"],
            registry=r,
        )
        self.degraded.labels("rerank", "deadline")
        self.errors = Counter("winnow_errors_total", "Answers that are problems, by kind", ["kind"], registry=r)
        self.documents = Counter(
            "winnow_ingested_documents_total", "Documents taken in, by what became of them", ["status"], registry=r
        )
        for status in ("created", "replaced", "updated", "unchanged", "deleted", "failed"):
            self.documents.labels(status)
        self.files = Counter(
            "winnow_files_total", "Files sent, by kind and what became of them", ["kind", "outcome"], registry=r
        )
        self.index_chunks = Gauge("winnow_index_chunks", "Chunks that can be found", ["collection"], registry=r)
        self.index_deleted = Gauge(
            "winnow_index_deleted_chunks", "Deleted chunks that wait for compaction", ["collection"], registry=r
        )
        self.index_bytes = Gauge("winnow_index_bytes", "Memory of the vector index", ["collection"], registry=r)
        self.index_lag = Gauge(
            "winnow_index_lag_documents", "Documents acknowledged and not yet searchable", ["collection"], registry=r
        )
        self.snapshots = Counter(
            "winnow_index_snapshots_total", "Index snapshots by outcome", ["collection", "outcome"], registry=r
        )
        self.ready = Gauge("winnow_ready", "1 when /readyz would say yes", registry=r)
        self.info = Gauge(
            "winnow_info",
            "Always 1; its labels say what is running",
            ["version", "encoder", "reranker", "device", "runtime"],
            registry=r,
        )


@dataclass
class Lap:
    """One stage being timed; a stage that waited for a model says for how long."""

    queued: float = 0.0
    seconds: float = 0.0


@dataclass
class Stopwatch:
    """Times the stages of one request; `with watch.stage("embed"):` is all that a pipeline has to say."""

    metrics: Metrics
    pipeline: Pipeline
    started: float = field(default_factory=perf_counter)
    laps: dict[str, Lap] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Lap]:
        lap, begin = self.laps.setdefault(name, Lap()), perf_counter()
        queued_before = lap.queued
        try:
            yield lap
        finally:
            spent = perf_counter() - begin
            queued = lap.queued - queued_before
            lap.seconds += spent
            observe = self.metrics.stage_seconds.labels
            observe(self.pipeline, name, "compute").observe(max(spent - queued, 0.0))
            if queued:
                observe(self.pipeline, name, "queue").observe(queued)

    @property
    def total(self) -> float:
        return perf_counter() - self.started
