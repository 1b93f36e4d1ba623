"""What comes in, and until when it can be found."""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.colours import BAD, DASHED, PARTS, fixed
from deploy.grafana.boards.panels import Ask, graph, stat


def stage_quantile(part: str) -> str:
    seconds = f'winnow_stage_seconds_bucket{{pipeline="ingest", part="{part}"}}[.]'
    return f"histogram_quantile($quantile, sum by (stage, le) (rate({seconds})))"


PACE = (
    '(sum(rate(winnow_ingested_documents_total{status=~"created|replaced"}[5m]))'
    " - sum(delta(winnow_index_lag_documents{}[5m])) / 300)"
)
"""Documents per second that were made searchable. No counter has them."""

NOW = Row(
    "Now",
    [
        stat(
            "Documents taken in",
            "Documents per second that were acknowledged, those that were there already among them.",
            'sum(rate(winnow_ingested_documents_total{status!~"deleted|failed"}[.]))',
            "suffix: docs/s",
            decimals=1,
        ),
        stat(
            "Not yet searchable",
            "Documents that are acknowledged and can't be found yet.",
            "sum(winnow_index_lag_documents{collection})",
            steps=[(None, "green"), (1000, "orange")],
            decimals=0,
        ),
        stat(
            "Time until they are",
            "Seconds until the last of them can be found, if no more come, at the pace of the last minutes: as many as "
            "came in, less those by which the line grew.",
            f"sum(winnow_index_lag_documents{{collection}}) / ({PACE} > 0)",
            "s",
            [(None, "green"), (600, "orange")],
        ),
        stat(
            "Documents that failed",
            "Documents that were taken in and can't be embedded, in the time shown. They are kept; their jobs say why.",
            'sum(increase(winnow_ingested_documents_total{status="failed"}[$__range]))',
            steps=[(None, "green"), (1, "red")],
            decimals=0,
        ),
        stat(
            "Files that failed",
            "Files that could not be read, in the time shown: the answer to their upload says why.",
            'sum(increase(winnow_files_total{outcome="failed"}[$__range])) or vector(0)',
            steps=[(None, "green"), (1, "orange")],
            decimals=0,
        ),
        stat(
            "Snapshots that failed",
            "Snapshots of an index that could not be written, in the time shown: mostly a full disk.",
            'sum(increase(winnow_index_snapshots_total{collection, outcome="failed"}[$__range])) or vector(0)',
            steps=[(None, "green"), (1, "red")],
            decimals=0,
        ),
        stat(
            "Chunks",
            "Chunks that can be found, in all chosen collections.",
            "sum(winnow_index_chunks{collection})",
            decimals=0,
        ),
        stat(
            "The disk",
            "FULL from a write that found no room until there is room again: what is sent is refused with 507, "
            "searches go on, and nothing acknowledged is lost.",
            "max(winnow_disk_full{})",
            steps=[(None, "green"), (1, "red")],
            says={0: ("has room", "green"), 1: ("FULL", "red")},
            background=True,
        ),
    ],
    height=4,
)

COMING = Row(
    "What comes in",
    [
        graph(
            "Documents by outcome",
            "Documents per second: created, replaced, updated (metadata alone), unchanged, deleted. failed ones are "
            "kept and can't be found: their job says why.",
            Ask("sum by (status) (rate(winnow_ingested_documents_total{}[.]))", "{{status}}"),
            unit="suffix: docs/s",
            width=8,
            overrides=[("failed", BAD), *fixed({"created": "green"})],
        ),
        graph(
            "Files by kind and outcome",
            "Files sent per second. failed ones could not be read: the answer to their upload says why.",
            Ask("sum by (kind, outcome) (rate(winnow_files_total{}[.]))", "{{kind}} {{outcome}}"),
            unit="suffix: files/s",
            width=8,
            overrides=[("/.* failed$/", BAD)],
        ),
        graph(
            "Requests to ingest, by status",
            "Requests per second to the routes that write. 202: acknowledged, and searchable later. 429: too many "
            "uploads at once. 507: the disk is full.",
            Ask(
                'sum by (route, status) (rate(winnow_request_seconds_count{route=~"/ingest.*|/documents.*"}[.]))',
                "{{route}} {{status}}",
            ),
            unit="reqps",
            width=8,
            overrides=[("/.* 5..$/", BAD)],
        ),
    ],
)

STAGES = Row(
    "Where an ingest's time goes",
    [
        graph(
            "Mean time of an ingest batch, by stage",
            "Seconds that one batch spends in each stage. convert, chunk and commit run before the answer that "
            "documents are acknowledged; embed, index and publish make them searchable. Warm is waiting for the model, "
            "which searches have first; cool is work.",
            Ask(
                'sum by (stage, part) (rate(winnow_stage_seconds_sum{pipeline="ingest"}[.])) / on (stage) group_left ()'
                ' sum by (stage) (rate(winnow_stage_seconds_count{pipeline="ingest", part="compute"}[.]))',
                "{{stage}} · {{part}}",
            ),
            unit="s",
            width=12,
            stacked=True,
            overrides=PARTS,
            legend="table",
        ),
        graph(
            "Working, each stage at ${quantile:text}",
            "Of so many laps as is chosen at the top, the slowest spends this long working in the stage.",
            Ask(stage_quantile("compute"), "{{stage}}"),
            unit="s",
        ),
        graph(
            "Tokens embedded",
            "Tokens per second that models compute for ingest, padding included. With searches under way it keeps "
            "WINNOW_BULK_SHARE of the time.",
            Ask('sum by (model) (rate(winnow_batch_tokens_sum{lane="ingest"}[.]))', "{{model}}"),
        ),
    ],
)

INDEX = Row(
    "Until it can be found",
    [
        graph(
            "Documents not yet searchable",
            "Acknowledged and waiting to be embedded and indexed. A hill is a bulk import; a slope that never ends is "
            "more than the models can take; a plain above zero is stuck.",
            Ask("sum by (collection) (winnow_index_lag_documents{collection})", "{{collection}}"),
            width=8,
        ),
        graph(
            "Chunks in the index",
            "Chunks that can be found, and deleted ones that wait for compaction (dashed). The index is rebuilt when "
            "WINNOW_COMPACT_SHARE of it is deleted.",
            Ask("sum by (collection) (winnow_index_chunks{collection})", "{{collection}}"),
            Ask("sum by (collection) (winnow_index_deleted_chunks{collection})", "{{collection}} · deleted"),
            width=8,
            overrides=[("/.* deleted$/", DASHED | {"color": {"mode": "fixed", "fixedColor": "orange"}})],
        ),
        graph(
            "Snapshots and compactions",
            "Index snapshots written or failed, and indexes built anew, in each span of time. failed: mostly a full "
            "disk; nothing is lost, but the next start takes longer.",
            Ask(
                "sum by (collection, outcome) (increase(winnow_index_snapshots_total{collection}[.]))",
                "{{collection}} · {{outcome}}",
            ),
            Ask(
                "sum by (collection) (increase(winnow_index_renewals_total{collection}[.]))",
                "{{collection}} · compacted",
            ),
            width=8,
            overrides=[("/.* failed$/", BAD)],
        ),
        graph(
            "Rebuilding",
            "How much of an index is there while it is rebuilt from the truth, as after a snapshot that could not be "
            "trusted. At 100 % all is there; until then /readyz says no.",
            Ask("min by (collection, index) (winnow_index_rebuild_share{collection})", "{{collection}}: {{index}}"),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Standbys",
            "Documents that a collection's standby has yet to take over, to be ready for other models. When none are "
            "left, it can be switched to.",
            Ask("sum by (collection) (winnow_standby_behind_documents{collection})", "{{collection}}"),
        ),
        graph(
            "Memory of the index",
            "Bytes that the vector index takes in memory, deleted chunks included until compaction.",
            Ask("sum by (collection) (winnow_index_bytes{collection})", "{{collection}}"),
            unit="bytes",
        ),
        graph(
            "Size of the database",
            "Bytes of SQLite's file and of its log: documents, chunks, vectors, jobs. A log that only grows means that "
            "a reader never ends.",
            Ask("sum by (instance, file) (winnow_database_bytes{})", "{{instance}} · {{file}}"),
            unit="bytes",
        ),
        graph(
            "Backups",
            "Backups of each span of time: taken to the end, or failed, as when the client left before.",
            Ask("sum by (instance, outcome) (increase(winnow_backups_total{}[.]))", "{{instance}} · {{outcome}}"),
            overrides=[("/.* failed$/", BAD)],
        ),
        graph(
            "Room on the disk",
            "Free bytes where the data is. An index needs as much again as it has while a snapshot is written.",
            Ask("min by (instance) (winnow_disk_free_bytes{})", "{{instance}}"),
            unit="bytes",
        ),
    ],
)

INGEST = Board(
    "ingest",
    "Winnow: what comes in, and until when it can be found",
    "What is sent, where its time goes, what waits, and what it takes in memory and on disk.",
    [NOW, COMING, STAGES, INDEX],
)
