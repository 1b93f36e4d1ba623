"""What the service tells of itself: Prometheus metrics, and a stopwatch that every stage runs under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from app import trail

Cut = Literal["idle", "slow-head", "large-head", "malformed", "ahead", "crowded", "unread"]
"""Why a connection was ended: nothing came, the head came too slowly or was too large, what came is no HTTP, too many
requests came ahead of their answers, there were too many connections, or the answer was not read."""

Pipeline = Literal["search", "ingest", "rerank", "embed", "observe"]

STAGE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
TOKEN_BUCKETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SHARE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
DEPTH_BUCKETS = (10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)
QUERY_BUCKETS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SCORE_BUCKETS = (
    -10,
    -5,
    -2,
    -1,
    -0.5,
    0,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1,
    2,
    3,
    5,
    7.5,
    10,
    15,
    20,
    30,
    50,
)
"""Scores are cosines, shares, logits or blends of them, by the models and the mode."""
DISTANCE_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """All metrics of one service, in a registry of its own: two services in one process do not mix."""

    def __init__(self) -> None:
        """A counter whose labels are known begins at 0, since an increase from nothing shows on no graph."""
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
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
        self.batch_seconds = Histogram(
            "winnow_batch_seconds",
            "Time that one model batch took to compute",
            ["model", "lane"],
            buckets=STAGE_BUCKETS,
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
        for full in ("requests", "files"):
            self.refusals.labels(full)
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
        self.batch_age = Gauge(
            "winnow_batch_age_seconds",
            "Time that a device has been at its present batch, as far as the watchdog has seen",
            ["device"],
            registry=r,
        )
        self.restarts = Counter(
            "winnow_worker_restarts_total",
            "Threads and tasks of the background that ended by an error and were begun anew",
            ["worker"],
            registry=r,
        )
        self.loop_lag = Gauge(
            "winnow_loop_lag_seconds",
            "Longest time that the event loop let the watchdog wait, of the last quarter of a minute",
            registry=r,
        )
        self.tasks = Gauge("winnow_tasks", "Tasks of the event loop", registry=r)
        self.connections = Gauge("winnow_connections", "Connections that are open", registry=r)
        self.cut_connections = Counter(
            "winnow_cut_connections_total",
            "Connections that were ended for what their client did or left undone",
            ["reason"],
            registry=r,
        )
        for reason in get_args(Cut):
            self.cut_connections.labels(reason)
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
        self.backups = Counter(
            "winnow_backups_total", "Backups that were asked for: taken to the end, or failed", ["outcome"], registry=r
        )
        for outcome in ("taken", "failed"):
            self.backups.labels(outcome)
        self.feedback = Counter(
            "winnow_feedback_total",
            "Feedback that was new: relevant, irrelevant or clicked",
            ["collection", "kind"],
            registry=r,
        )
        self.index_chunks = Gauge("winnow_index_chunks", "Chunks that can be found", ["collection"], registry=r)
        self.index_deleted = Gauge(
            "winnow_index_deleted_chunks", "Deleted chunks that wait for compaction", ["collection"], registry=r
        )
        self.index_bytes = Gauge("winnow_index_bytes", "Memory of the vector index", ["collection"], registry=r)
        self.standby_behind = Gauge(
            "winnow_standby_behind_documents",
            "Documents that a standby has yet to take over",
            ["collection"],
            registry=r,
        )
        self.index_lag = Gauge(
            "winnow_index_lag_documents", "Documents acknowledged and not yet searchable", ["collection"], registry=r
        )
        self.rebuild_share = Gauge(
            "winnow_index_rebuild_share",
            "How much of an index is there while it is rebuilt from the truth; 1 when it is not",
            ["collection", "index"],
            registry=r,
        )
        self.renewals = Counter(
            "winnow_index_renewals_total",
            "Times that the vector index was built anew beside the old one: compacted, or repaired by a check",
            ["collection"],
            registry=r,
        )
        self.snapshots = Counter(
            "winnow_index_snapshots_total", "Index snapshots by outcome", ["collection", "outcome"], registry=r
        )
        self.ann_recall = Gauge(
            "winnow_ann_recall",
            "Share of the k nearest chunks that the graph finds, over queries sampled lately",
            ["collection", "k"],
            registry=r,
        )
        self.ann_recall_low = Gauge(
            "winnow_ann_recall_low", "Lower end of its 95 % interval", ["collection", "k"], registry=r
        )
        self.ann_recall_high = Gauge(
            "winnow_ann_recall_high", "Upper end of its 95 % interval", ["collection", "k"], registry=r
        )
        self.ann_recall_objective = Gauge(
            "winnow_ann_recall_objective", "What recall ought to be: WINNOW_RECALL_OBJECTIVE", registry=r
        )
        self.index_ef = Gauge(
            "winnow_index_ef", "Effort of searches by graph: as set, or as tuned since", ["collection"], registry=r
        )
        self.depth_missed_share = Gauge(
            "winnow_depth_missed_share",
            "Share of sampled queries with one of the ten best answers beyond their candidates",
            ["collection"],
            registry=r,
        )
        self.depth_needed = Histogram(
            "winnow_depth_needed",
            "Candidates of a sampled query that hold its ten best answers",
            ["collection"],
            buckets=DEPTH_BUCKETS,
            registry=r,
        )
        self.rerank_overlap = Gauge(
            "winnow_rerank_overlap",
            "Share of the first stage's ten best that are among the ten best after reranking, in the mean",
            ["collection"],
            registry=r,
        )
        self.rerank_correlation = Gauge(
            "winnow_rerank_correlation",
            "Likeness of the two orders of the ten best, 0 to 1 (rank-biased overlap), in the mean",
            ["collection"],
            registry=r,
        )
        self.rerank_unchanged_share = Gauge(
            "winnow_rerank_unchanged_share",
            "Share of reranked searches whose ten best were those of the first stage in the same order",
            ["collection"],
            registry=r,
        )
        self.scored_tokens_share = Gauge(
            "winnow_scored_tokens_share",
            "Share of the tokens of query and chunk together that the reranker saw, over the hits of lately",
            ["collection"],
            registry=r,
        )
        self.query_tokens = Histogram(
            "winnow_query_tokens", "Length of queries", ["collection"], buckets=QUERY_BUCKETS, registry=r
        )
        self.long_queries = Counter(
            "winnow_long_queries_total",
            "Queries longer than WINNOW_QUERY_RESERVE, which the longest chunks leave no room for",
            ["collection"],
            registry=r,
        )
        self.top_score = Histogram(
            "winnow_top_score", "Final score of the best hit", ["collection"], buckets=SCORE_BUCKETS, registry=r
        )
        self.query_distance = Histogram(
            "winnow_query_distance",
            "From a query to the nearest chunk that was found: 1 less the cosine",
            ["collection"],
            buckets=DISTANCE_BUCKETS,
            registry=r,
        )
        self.drift = Gauge(
            "winnow_drift",
            "How far searches of lately are from those of the reference, 0 to 1 (Kolmogorov-Smirnov)",
            ["collection", "signal"],
            registry=r,
        )
        self.drift_null = Gauge(
            "winnow_drift_null",
            "What drift stays below in 999 of 1000 cases if nothing has changed, with so few searches",
            ["collection", "signal"],
            registry=r,
        )
        self.unanswered_share = Gauge(
            "winnow_unanswered_share",
            "Share of searches without a good answer: nothing found, nothing relevant, or a top score among the lowest",
            ["collection"],
            registry=r,
        )
        self.observed_queries = Counter(
            "winnow_observed_queries_total",
            "Searches that were watched, by what came of it",
            ["collection", "outcome"],
            registry=r,
        )
        self.observe_seconds = Counter(
            "winnow_observe_seconds_total", "Idle time spent on looking at searches again", registry=r
        )
        self.key_tokens = Counter(
            "winnow_key_tokens_total",
            "Tokens that models read for callers, by the id of their key or, without keys, by where they are",
            ["key"],
            registry=r,
        )
        self.database_bytes = Gauge(
            "winnow_database_bytes", "Size of the truth on disk, and of SQLite's log beside it", ["file"], registry=r
        )
        self.disk_free_bytes = Gauge("winnow_disk_free_bytes", "Room that is left where the data is", registry=r)
        self.disk_full = Gauge(
            "winnow_disk_full", "1 from a write that found no room until there is room again", registry=r
        )
        self.ready = Gauge("winnow_ready", "1 when /readyz would say yes", registry=r)
        self.info = Gauge(
            "winnow_info",
            "Always 1; its labels say what is running",
            ["version", "encoder", "reranker", "device", "runtime", "precision"],
            registry=r,
        )

    def forget(self, collection: str) -> None:
        """Show no more of a collection that is gone."""
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase) and "collection" in metric._labelnames:
                metric.remove_by_labels({"collection": collection})


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
            self._tell(name, queued, max(spent - queued, 0.0))

    def _tell(self, stage: str, queued: float, computed: float) -> None:
        request, observe = trail.current(), self.metrics.stage_seconds.labels
        exemplar = request.ids if request else None
        observe(self.pipeline, stage, "compute").observe(computed, exemplar)
        if queued:
            observe(self.pipeline, stage, "queue").observe(queued, exemplar)
        if request:
            request.stage(stage, queued, computed)

    @property
    def total(self) -> float:
        return perf_counter() - self.started
