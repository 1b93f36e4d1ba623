"""The overview's rows about searches: each stage's time, stacked and in numbers, waiting apart from working."""

from __future__ import annotations

from deploy.grafana.boards.board import Row
from deploy.grafana.boards.colours import PARTS, WAITING, WORKING, fixed
from deploy.grafana.boards.panels import Ask, bars, graph, heatmap, table, words

SEARCHES = 'sum(rate(winnow_request_seconds_count{route="/search", status="200"}[.]))'
"""Those that were answered: there is no stage that every one of them enters, and just once."""


def mean(by: str = "stage, part", part: str = ".+") -> str:
    """Seconds of a search in each stage. Over all searches and not over all laps, so that the parts add up."""
    spent = f'winnow_stage_seconds_sum{{pipeline="search", part=~"{part}"}}[.]'
    return f"sum by ({by}) (rate({spent})) / on () group_left () {SEARCHES}"


TOTAL = f'sum(rate(winnow_request_seconds_sum{{route="/search", status="200"}}[.])) / {SEARCHES}'
OUTSIDE = f'clamp_min({TOTAL} - sum(rate(winnow_stage_seconds_sum{{pipeline="search"}}[.])) / {SEARCHES}, 0)'


def quantile(q: float) -> str:
    answered = 'winnow_request_seconds_bucket{route="/search", status="200"}[.]'
    return f"histogram_quantile({q}, sum by (le) (rate({answered})))"


def stage_quantile(q: str, part: str = "compute") -> str:
    seconds = f'winnow_stage_seconds_bucket{{pipeline="search", part="{part}"}}[.]'
    return f"histogram_quantile({q}, sum by (stage, le) (rate({seconds})))"


HOW_TO_READ = """\
**The tallest layer is the stage to look at.**

**Warm: it waits** for its model. *Busiest model* near 100 %: more comes in than it can do. Add processes or a GPU, ask
for fewer `candidates` (or `auto`). Not busy: look for a long batch, or ingest's share (`WINNOW_BULK_SHARE`).

**Cool: it works.** *rerank* grows with `candidates` and the length of chunks, *retrieve* with `WINNOW_INDEX_EF`, *load*
and *filter* with the disk, *embed* with the query.

**Grey: none of the stages.** A busy machine, long bodies, an event loop that is held up.

A dot in *Latency* is a request: its id is in the log, with the time of each stage.
"""

SEARCH = Row(
    "Search: which stage, and does it wait or work",
    [
        graph(
            "Mean time of a search, by stage: waiting (warm colours) and working (cool colours)",
            "The layers add up to what an answered search takes on average. Warm colours are queue: waiting for the "
            "model. Cool colours are compute: the stage's own work. Grey is time outside all stages: HTTP, JSON, "
            "waiting for a turn on the event loop. Refused requests are not in here.",
            Ask(mean(), "{{stage}} · {{part}}"),
            Ask(OUTSIDE, "outside the stages"),
            unit="s",
            width=14,
            stacked=True,
            overrides=[*PARTS, *fixed({"outside the stages": "text"})],
            legend="table",
        ),
        bars(
            "The same, over the time shown",
            "Mean seconds of a search in each stage, over the whole time range. The longest bar is what to look at "
            "first; a warm one waits, a cool one works.",
            Ask(f"sort_desc({mean().replace('[.]', '[$__range]')})", "{{stage}} · {{part}}"),
            "s",
            width=5,
            overrides=PARTS,
        ),
        words("How to read this", "What the colours mean, and what to do about each of them.", HOW_TO_READ, width=5),
    ],
    height=12,
)

STAGES = Row(
    "Search: the stages in numbers",
    [
        table(
            "Each stage now",
            "Seconds of the stage's laps: how long it waits for its model on average, how long it works on average, "
            "and what the middle, the twentieth and the hundredth slowest lap spend working.",
            Ask(mean("stage", "queue"), "waits"),
            Ask(mean("stage", "compute"), "works"),
            *(Ask(stage_quantile(q), name) for name, q in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99"))),
            columns=["stage", "waits", "works", "p50", "p95", "p99"],
            unit="s",
            width=8,
        ),
        graph(
            "Working, each stage at ${quantile:text}",
            "Of so many laps as is chosen at the top (p50, p95, p99), the slowest spends this long working in the "
            "stage. Dots are requests, whose ids are in the log.",
            Ask(stage_quantile("$quantile"), "{{stage}}", exemplars=True),
            unit="s",
            width=8,
            overrides=fixed(WORKING),
        ),
        graph(
            "Waiting for the model, each stage at ${quantile:text}",
            "Of the searches that wait, the slowest of so many waits this long. Searches that found the model free are "
            "not counted, so that this shows how bad waiting is when it happens.",
            Ask(stage_quantile("$quantile", "queue"), "{{stage}}", exemplars=True),
            unit="s",
            width=8,
            overrides=fixed(WAITING),
        ),
        graph(
            "Latency of answered searches",
            "From arrival to answer. Measured in buckets, between whose edges Prometheus interpolates: read it as "
            "about so much. Dots are requests, whose ids are in the log. The line is the objective.",
            *(Ask(quantile(q), f"p{q * 100:g}", exemplars=q == 0.99) for q in (0.5, 0.95, 0.99)),
            unit="s",
            width=8,
            line=1,
            overrides=fixed({"p50": "green", "p95": "orange", "p99": "red"}),
        ),
        heatmap(
            "Distribution of answered searches",
            "Each column is a moment, each row a span of latency; the brighter, the more searches. Two bright bands "
            "are two kinds of search, for example with and without reranking.",
            Ask(
                'sum by (le) (increase(winnow_request_seconds_bucket{route="/search", status="200"}[.]))',
                "{{le}}",
                exemplars=True,
            ),
            "s",
        ),
        graph(
            "How fast the objective's budget burns",
            "1: at this pace a month's searches just meet the objective. Above: they will not. The alert that wakes "
            "somebody begins at 14.4, of one hour and of five minutes.",
            *(Ask(f"max(winnow:search_burn:{span}{{}})", span) for span in ("5m", "1h", "6h", "3d")),
            width=8,
            line=14.4,
        ),
    ],
)
