"""Which stage is slow, and why: the board for whoever is on call."""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.colours import BAD, PARTS
from deploy.grafana.boards.panels import Ask, graph, stat, table
from deploy.grafana.boards.search_rows import SEARCH, STAGES, mean

PROBES = 'route!~"/healthz|/readyz|/metrics"'


def share(some: str, of: str) -> str:
    """0 and not nothing where there is none of it."""
    return f"(sum(rate({some}[.])) or vector(0)) / sum(rate({of}[.]))"


NOW = Row(
    "Now: anything red is where to begin",
    [
        stat(
            "Ready",
            "What /readyz says: models loaded, index caught up, both stages give a known answer. The lowest of all "
            "instances. NO: ask /readyz, it lists the reasons.",
            "min(winnow_ready{})",
            steps=[(None, "red"), (1, "green")],
            says={0: ("NO", "red"), 1: ("yes", "green")},
            background=True,
        ),
        stat(
            "Alerts",
            "Alerts of deploy/prometheus/rules.yml that fire. Prometheus shows each with what to do.",
            'count(ALERTS{alertname=~"Winnow.+", alertstate="firing"}) or vector(0)',
            steps=[(None, "green"), (1, "red")],
            decimals=0,
            background=True,
        ),
        stat(
            "Searches in time",
            "Share of the searches that were let in and were answered within the objective, 1 s unless rules.yml says "
            "otherwise. Red: fewer than the objective's 95 %.",
            "sum(rate(winnow:searches_in_time:total{}[.])) / sum(rate(winnow:searches_let_in:total{}[.]))",
            "percentunit",
            [(None, "red"), (0.95, "green")],
            decimals=1,
        ),
        stat(
            "Where most of the time goes",
            "The stage that takes the largest share of a search just now, and whether it waits for the model (queue) "
            "or works (compute). queue: more comes in than the models can do. compute: the work itself is long.",
            Ask(f"topk(1, {mean()})", "{{stage}} · {{part}}"),
            "s",
            width=6,
            now=True,
        ),
        stat(
            "Busiest model",
            "Share of the time that the model which works most is computing. Near 100 %: it can't do more, searches "
            "wait for it (queue), and then they are refused.",
            Ask("topk(1, sum by (model) (rate(winnow_batch_seconds_sum{}[.])))", "{{model}}"),
            "percentunit",
            [(None, "green"), (0.7, "orange"), (0.9, "red")],
            width=6,
            decimals=0,
            now=True,
        ),
        stat(
            "Searches",
            "Answered searches per second: those that ended with status 200.",
            'sum(rate(winnow_request_seconds_count{route="/search", status="200"}[.]))',
            "reqps",
            decimals=1,
        ),
        stat(
            "Failed",
            "Share of requests that ended in an error of ours (5xx). Which: see Errors by kind below.",
            share(
                f'winnow_request_seconds_count{{status=~"5..", {PROBES}}}', f"winnow_request_seconds_count{{{PROBES}}}"
            ),
            "percentunit",
            [(None, "green"), (0.001, "orange"), (0.01, "red")],
            decimals=1,
        ),
        stat(
            "Refused",
            "Share of requests refused before any work (429). A little of it under load is right: callers come back "
            "after Retry-After.",
            share('winnow_request_seconds_count{status="429"}', f"winnow_request_seconds_count{{{PROBES}}}"),
            "percentunit",
            [(None, "green"), (0.01, "orange"), (0.05, "red")],
            decimals=1,
        ),
        stat(
            "Unfinished",
            "Share of answered searches whose deadline came before reranking was done, and that say so (degraded).",
            share("winnow_degraded_answers_total{}", 'winnow_request_seconds_count{route="/search", status="200"}'),
            "percentunit",
            [(None, "green"), (0.01, "orange"), (0.05, "red")],
            decimals=1,
        ),
        stat(
            "Not yet searchable",
            "Documents that are acknowledged and can't be found yet. Click for the board of ingest.",
            "sum(winnow_index_lag_documents{})",
            steps=[(None, "green"), (1000, "orange")],
            decimals=0,
            board="ingest",
        ),
        stat(
            "Recall of the graph",
            "Share of the ten nearest chunks that the index finds, in the worst collection, over queries sampled while "
            "serving. Click for the board of quality.",
            'min(winnow_ann_recall{k="10"})',
            "percentunit",
            [(None, "red"), (0.9, "orange"), (0.98, "green")],
            decimals=1,
            board="quality",
        ),
        stat(
            "Starts",
            "How often an instance was started anew in the time shown. The blue lines in the graphs are the moments.",
            'sum(changes(process_start_time_seconds{job="winnow"}[$__range]))',
            steps=[(None, "green"), (1, "orange")],
            decimals=0,
        ),
        stat(
            "Processor",
            "Cores in use, of all chosen instances together. As many as there are: the machine is at its end.",
            'sum(rate(process_cpu_seconds_total{job="winnow"}[.]))',
            decimals=1,
        ),
        stat(
            "Memory",
            "Resident memory of the largest instance: models, indexes, and whatever is under way.",
            'max(process_resident_memory_bytes{job="winnow"})',
            "bytes",
        ),
    ],
    height=4,
)

MODELS = Row(
    "Models: queue against compute",
    [
        graph(
            "Busy",
            "Share of the time that each model computes, by lane. All lanes and models of a device add up to 100 % at "
            "most; on a CPU questions have a thread of their own. Full: this is all that the machine can do.",
            Ask("sum by (model, lane) (rate(winnow_batch_seconds_sum{}[.]))", "{{model}} · {{lane}}"),
            unit="percentunit",
            stacked=True,
        ),
        graph(
            "In line",
            "Seconds of work, by the rate of the last minutes, that are admitted and not yet computed. Searches are "
            "refused once theirs would take longer than WINNOW_QUEUE_SECONDS; ingest waits instead.",
            Ask(
                "sum by (model, lane) (winnow_queue_tokens{}) / on (model, lane)"
                " (sum by (model, lane) (rate(winnow_batch_tokens_sum{}[.])) > 0)",
                "{{model}} · {{lane}}",
            ),
            unit="s",
        ),
        graph(
            "Tokens in line",
            "Tokens admitted and not yet computed. More than WINNOW_QUEUE_TOKENS of searches are refused.",
            Ask("sum by (model, lane) (winnow_queue_tokens{})", "{{model}} · {{lane}}"),
        ),
        graph(
            "Longest batches",
            "Of twenty batches the slowest computes this long. A search that comes meanwhile waits for it: with long "
            "ones of ingest, lower WINNOW_BULK_BATCH_TOKENS.",
            Ask(
                "histogram_quantile(0.95, sum by (model, lane, le) (rate(winnow_batch_seconds_bucket{}[.])))",
                "{{model}} · {{lane}}",
            ),
            unit="s",
        ),
        graph(
            "Tokens in a batch",
            "Mean tokens that a model computes at once, padding included. Near the budget (WINNOW_BATCH_TOKENS, "
            "WINNOW_BULK_BATCH_TOKENS): batches are full. Small: the model is mostly free.",
            Ask(
                "sum by (model, lane) (rate(winnow_batch_tokens_sum{}[.]))"
                " / sum by (model, lane) (rate(winnow_batch_tokens_count{}[.]))",
                "{{model}} · {{lane}}",
            ),
        ),
        graph(
            "Padding",
            "Mean share of a batch that is padding, so wasted work. Batches are sorted by length to keep it small; "
            "much of it in small batches costs little.",
            Ask(
                "sum by (model, lane) (rate(winnow_batch_padding_share_sum{}[.]))"
                " / sum by (model, lane) (rate(winnow_batch_padding_share_count{}[.]))",
                "{{model}} · {{lane}}",
            ),
            unit="percentunit",
        ),
        graph(
            "Tokens computed",
            "Tokens per second that each model computes: its throughput, padding included. Flat while the line grows: "
            "this is all that the machine can do.",
            Ask("sum by (model, lane) (rate(winnow_batch_tokens_sum{}[.]))", "{{model}} · {{lane}}"),
        ),
        graph(
            "Texts not computed",
            "Share of the texts that searches asked a model for that cost nothing: shared with a search that asked the "
            "same at that moment, or remembered from before. Memory for more: WINNOW_QUERY_CACHE_BYTES of vectors, "
            "WINNOW_PAIR_CACHE_BYTES of pairs' scores.",
            Ask(
                'sum by (model, source) (rate(winnow_texts_total{source!="computed"}[.]))'
                " / on (model) group_left () sum by (model) (rate(winnow_texts_total{}[.]))",
                "{{model}} · {{source}}",
            ),
            unit="percentunit",
        ),
    ],
)

WRONG = Row(
    "What went wrong",
    [
        graph(
            "Errors by kind",
            "Answers per second that are problem documents. invalid, malformed and not-found are the caller's; "
            "internal, model, timed-out and unavailable are ours.",
            Ask("sum by (kind) (rate(winnow_errors_total{}[.]))", "{{kind}}"),
            unit="reqps",
            overrides=[("/internal|model|timed-out|unavailable/", {"color": {"mode": "shades", "fixedColor": "red"}})],
        ),
        graph(
            "Refusals",
            "Requests per second refused before any work, by what was full: a model's queue, `files` for "
            "uploads, or `requests` for all that are under way at once.",
            Ask("sum by (model) (rate(winnow_refusals_total{}[.]))", "{{model}}"),
            unit="reqps",
        ),
        graph(
            "Unfinished and unwanted",
            "Answers whose deadline came before a stage had finished, texts that were never computed because the "
            "caller had left or the search had timed out, batches that a device had no memory for and that were "
            "computed in halves; each per second.",
            Ask(
                "sum by (stage, reason) (rate(winnow_degraded_answers_total{}[.]))", "{{stage}} unfinished: {{reason}}"
            ),
            Ask("sum by (model) (rate(winnow_abandoned_total{}[.]))", "{{model}}: nobody waits"),
            Ask("sum by (model) (rate(winnow_out_of_memory_total{}[.]))", "{{model}}: no memory for a batch"),
        ),
        graph(
            "Requests by route and status",
            "Requests per second, without health checks and scrapes. Those refused at the door have no route yet: "
            "unknown. Status 0: the caller left before an answer.",
            Ask(f"sum by (route, status) (rate(winnow_request_seconds_count{{{PROBES}}}[.]))", "{{route}} {{status}}"),
            unit="reqps",
            overrides=[
                ("/.* 429$/", {"color": {"mode": "fixed", "fixedColor": "orange"}}),
                ("/.* 5..$/", BAD),
            ],
        ),
    ],
)

OTHERS = Row(
    "Texts of other applications: ranked and embedded",
    [
        graph(
            "Mean time to rank and to embed",
            "Seconds that one request to /rerank, /v1/rerank, /v2/rerank, /v1/embeddings or /embed spends with its "
            "model. Warm is waiting, where searches and these requests have the same right and long lists to embed "
            "come behind both; cool is work.",
            Ask(
                'sum by (pipeline, part) (rate(winnow_stage_seconds_sum{pipeline=~"rerank|embed"}[.])) / on (pipeline)'
                ' group_left () sum by (pipeline) (rate(winnow_stage_seconds_count{pipeline=~"rerank|embed",'
                ' part="compute"}[.]))',
                "{{pipeline}} · {{part}}",
            ),
            unit="s",
            width=12,
            stacked=True,
            overrides=PARTS,
        ),
        graph(
            "p95 of ranking and embedding, by route",
            "Of twenty answered requests of other applications, the slowest takes this long in all, from its arrival "
            "to its answer. Refusals are left out: they are fast and would flatter it.",
            Ask(
                "histogram_quantile(0.95, sum by (route, le) (rate(winnow_request_seconds_bucket{"
                'route=~"/rerank|/v1/rerank|/v2/rerank|/v1/embeddings|/embed", status="200"}[.])))',
                "{{route}}",
                exemplars=True,
            ),
            unit="s",
            width=12,
        ),
    ],
)

PROCESS = Row(
    "Callers and the process",
    [
        graph(
            "Tokens by key",
            "Tokens per second that models read for each caller, by the id of its key or, without keys, by its "
            "address. One far above the others is who the models are busy for.",
            Ask("topk(10, sum by (key) (rate(winnow_key_tokens_total{}[.])))", "{{key}}"),
        ),
        graph(
            "Cores in use",
            "Processor time per second of each instance. At the number of cores of the machine there is no more to be "
            "had.",
            Ask('sum by (instance) (rate(process_cpu_seconds_total{job="winnow"}[.]))', "{{instance}}"),
        ),
        graph(
            "Resident memory",
            "Resident memory of each instance. It rises while models load and indexes grow, and is flat otherwise.",
            Ask('sum by (instance) (process_resident_memory_bytes{job="winnow"})', "{{instance}}"),
            unit="bytes",
        ),
        graph(
            "What is open",
            "Descriptors, connections of callers among them, and tasks of the event loop. They follow the number of "
            "callers; what only rises is a leak.",
            Ask('sum by (instance) (process_open_fds{job="winnow"})', "{{instance}}"),
            Ask("sum by (instance) (winnow_connections{})", "{{instance}}: connections"),
            Ask("sum by (instance) (winnow_tasks{})", "{{instance}}: tasks"),
        ),
        graph(
            "Connections that were ended",
            "Connections per second that were cut for what their client did or left undone: it sent too slowly, did "
            "not read, or opened too many.",
            Ask("sum by (reason) (rate(winnow_cut_connections_total{}[.]))", "{{reason}}"),
            unit="reqps",
            width=8,
        ),
        graph(
            "Held up",
            "Seconds that the event loop let others wait, and that a device has been at its present batch. Long: every "
            "request waits for it, whatever its stages say.",
            Ask("max by (instance) (winnow_loop_lag_seconds{})", "{{instance}}: event loop"),
            Ask("max by (instance, device) (winnow_batch_age_seconds{})", "{{instance}}: {{device}}"),
            unit="s",
            width=8,
        ),
        graph(
            "Begun anew",
            "Threads and tasks of the background that ended by an error and were begun anew. The log has the error.",
            Ask("sum by (worker) (increase(winnow_worker_restarts_total{}[.]))", "{{worker}}"),
            width=8,
        ),
        table(
            "Versions and models",
            "One line for each instance: the release, the models of new collections, and where they run.",
            Ask("winnow_info{}"),
            columns=["instance", "version", "encoder", "reranker", "device", "runtime", "precision"],
            hidden=["__name__", "job"],
            width=24,
        ),
    ],
)

OVERVIEW = Board(
    "overview",
    "Winnow: which stage is slow, and why",
    "Read from the top: what is red, the tallest layer, whether it is warm (waits) or cool (works), what its model "
    "does, and what went wrong.",
    [NOW, SEARCH, STAGES, MODELS, WRONG, OTHERS, PROCESS],
)
