"""Whether answers got worse: what searches of lately look like when they are looked at again."""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.colours import BAD, DASHED
from deploy.grafana.boards.panels import Ask, graph, heatmap, stat


def quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, sum by (collection, le) (rate({name}_bucket{{collection}}[1h])))"


NOW = Row(
    "Now: anything red is where to begin",
    [
        stat(
            "Recall of the graph",
            "Share of the ten nearest chunks that the index finds, in the worst collection. Red below 90 %: raise "
            "WINNOW_INDEX_EF.",
            'min(winnow_ann_recall{collection, k="10"})',
            "percentunit",
            [(None, "red"), (0.9, "orange"), (0.98, "green")],
            decimals=1,
        ),
        stat(
            "Better answers beyond",
            "Share of sampled queries with one of the ten best answers beyond their candidates, in the worst "
            "collection. Much of it: raise `candidates`.",
            "max(winnow_depth_missed_share{collection})",
            "percentunit",
            [(None, "green"), (0.1, "orange"), (0.25, "red")],
            decimals=1,
        ),
        stat(
            "Tokens read",
            "Share of the tokens of query and chunk that the reranker saw, in the worst collection. Less than all: "
            "chunks or queries are too long for it.",
            "min(winnow_scored_tokens_share{collection})",
            "percentunit",
            [(None, "red"), (0.9, "orange"), (0.99, "green")],
            decimals=1,
        ),
        stat(
            "Without a good answer",
            "Share of searches where nothing was found, nothing was relevant, or the top score was among the lowest.",
            "max(winnow_unanswered_share{collection})",
            "percentunit",
            [(None, "green"), (0.1, "orange"), (0.25, "red")],
            decimals=1,
        ),
        stat(
            "Drift",
            "How much searches of lately differ from those of the reference, beyond what chance explains. Above 0 "
            "questions or answers are not what they were: see the graphs below.",
            Ask("topk(1, winnow_drift{collection} - winnow_drift_null{collection})", "{{collection}} · {{signal}}"),
            steps=[(None, "green"), (0.0, "orange"), (0.1, "red")],
            width=6,
            decimals=2,
            now=True,
        ),
        stat(
            "Reranking changes nothing",
            "Share of reranked searches whose ten best were the first stage's in the same order, in the collection "
            "where most are. Near 100 %: it is not worth its time.",
            "max(winnow_rerank_unchanged_share{collection})",
            "percentunit",
            [(None, "green"), (0.8, "orange")],
            decimals=0,
        ),
        stat(
            "Searches looked at",
            "Searches that were looked at again in the time shown. Few: intervals are wide, and there is no telling "
            "yet.",
            'sum(increase(winnow_observed_queries_total{collection, outcome=~"compared|exact|changed"}[$__range]))',
            decimals=0,
        ),
    ],
    height=4,
)

FOUND = Row(
    "Does the index find what is there?",
    [
        graph(
            "Recall of the graph, with its interval",
            "Share of the ten nearest chunks that the graph finds, over queries sampled lately and compared exactly. "
            "Dashed: the ends of the 95 % interval, and the objective. The alert fires when even the upper end is "
            "below.",
            Ask('winnow_ann_recall{collection, k="10"}', "{{collection}}"),
            Ask('winnow_ann_recall_low{collection, k="10"}', "{{collection}} · low"),
            Ask('winnow_ann_recall_high{collection, k="10"}', "{{collection}} · high"),
            Ask("max(winnow_ann_recall_objective{})", "objective"),
            unit="percentunit",
            width=12,
            most=1,
            overrides=[
                ("/.* (low|high)$/", DASHED),
                ("objective", DASHED | BAD),
            ],
        ),
        graph(
            "Recall at each depth",
            "The same for the nearest k chunks: the more, the harder they are to find.",
            Ask("min by (k) (winnow_ann_recall{collection})", "nearest {{k}}"),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Effort of searches",
            "How many chunks the graph looks at (ef): as WINNOW_INDEX_EF sets it, or as tuned to the objective since.",
            Ask("max by (collection) (winnow_index_ef{collection})", "{{collection}}"),
        ),
    ],
)

DEEP = Row(
    "Is enough of it reranked?",
    [
        graph(
            "A better answer lay beyond the candidates",
            "Share of sampled queries with one of the ten best answers, as a reranking of many more candidates has "
            "them, beyond those that they had.",
            Ask("max by (collection) (winnow_depth_missed_share{collection})", "{{collection}}"),
            unit="percentunit",
            width=8,
        ),
        graph(
            "Candidates that would do",
            "So many candidates hold the ten best answers of half, nine tenths, and nineteen of twenty sampled "
            "queries: the choice of `candidates` can be read off here.",
            *(Ask(quantile(q, "winnow_depth_needed"), f"{{{{collection}}}} · p{q * 100:g}") for q in (0.5, 0.9, 0.95)),
            width=8,
        ),
        graph(
            "What reranking changes",
            "Of the ten best: the share that was there before (overlap), how alike the two orders are (correlation), "
            "and the share of searches where nothing changed at all.",
            Ask("avg by (collection) (winnow_rerank_overlap{collection})", "{{collection}} · overlap"),
            Ask("avg by (collection) (winnow_rerank_correlation{collection})", "{{collection}} · correlation"),
            Ask("avg by (collection) (winnow_rerank_unchanged_share{collection})", "{{collection}} · nothing changed"),
            unit="percentunit",
            width=8,
        ),
    ],
)

READ = Row(
    "Is all of it read?",
    [
        graph(
            "Tokens that the reranker saw",
            "Share of the tokens of query and chunk together. Below 100 %: raise WINNOW_QUERY_RESERVE for new "
            "collections, or ask with on_truncation: window.",
            Ask("min by (collection) (winnow_scored_tokens_share{collection})", "{{collection}}"),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Truncated texts",
            "Texts per second of which a model saw only a part. embed, weigh: the query is longer than the encoder or "
            "the sparse encoder reads. rerank: query and chunk together are longer than the reranker reads.",
            Ask("sum by (stage) (rate(winnow_truncated_texts_total{}[.]))", "{{stage}}"),
            Ask("sum(rate(winnow_windowed_texts_total{}[.]))", "read in windows"),
            unit="suffix: texts/s",
        ),
        graph(
            "Length of queries",
            "Tokens of a query: the middle one, and the longest of twenty and of a hundred.",
            *(Ask(quantile(q, "winnow_query_tokens"), f"{{{{collection}}}} · p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
        ),
        graph(
            "Queries beyond the reserve",
            "Queries per second that are longer than WINNOW_QUERY_RESERVE, so that the longest chunks are read in "
            "part.",
            Ask("sum by (collection) (rate(winnow_long_queries_total{collection}[.]))", "{{collection}}"),
            unit="reqps",
        ),
    ],
)

CHANGED = Row(
    "Did questions or answers change?",
    [
        graph(
            "Drift, and what chance explains",
            "How far searches of lately are from those of the reference, 0 to 1, by what is compared. Dashed: what it "
            "stays below in 999 of 1000 cases if nothing has changed.",
            Ask("max by (collection, signal) (winnow_drift{collection})", "{{collection}} · {{signal}}"),
            Ask("max by (collection, signal) (winnow_drift_null{collection})", "{{collection}} · {{signal}}: chance"),
            width=8,
            overrides=[("/.*: chance$/", DASHED)],
        ),
        graph(
            "Searches without a good answer",
            "Share of searches where nothing was found, nothing was relevant, or the top score was among the lowest. "
            "It rises when users ask for what is not there, or when the index lost it.",
            Ask("max by (collection) (winnow_unanswered_share{collection})", "{{collection}}"),
            unit="percentunit",
            width=8,
        ),
        graph(
            "Score of the best hit",
            "The middle of the best hits' final scores, and the tenth lowest and highest. A band that sinks: answers "
            "fit less well.",
            *(Ask(quantile(q, "winnow_top_score"), f"{{{{collection}}}} · p{q * 100:g}") for q in (0.1, 0.5, 0.9)),
            least=None,
            width=8,
        ),
        heatmap(
            "Distribution of best scores",
            "Each column is a moment, each row a span of scores; the brighter, the more searches. A second band of low "
            "ones is a new kind of question that has no answer.",
            Ask("sum by (le) (increase(winnow_top_score_bucket{collection}[.]))", "{{le}}"),
            "short",
        ),
        graph(
            "From a query to its nearest chunk",
            "Distance (1 less the cosine) of the middle query, and of the tenth nearest and farthest. Rising: "
            "questions move away from what is there.",
            *(Ask(quantile(q, "winnow_query_distance"), f"{{{{collection}}}} · p{q * 100:g}") for q in (0.1, 0.5, 0.9)),
            width=8,
        ),
        graph(
            "What people say",
            "Feedback per second that was new, by kind. More irrelevant beside the same relevant and clicked: answers "
            "got worse for those who read them.",
            Ask("sum by (kind) (rate(winnow_feedback_total{collection}[.]))", "{{kind}}"),
            unit="reqps",
            width=8,
        ),
    ],
)

COST = Row(
    "What looking costs",
    [
        graph(
            "Searches by what came of looking",
            "Searches per second that were watched, and what became of those that were to be looked at again. dropped: "
            "there was no idle time for them.",
            Ask("sum by (outcome) (rate(winnow_observed_queries_total{collection}[.]))", "{{outcome}}"),
            unit="reqps",
            width=12,
        ),
        graph(
            "Share of time",
            "Of each second, the part in which searches are looked at again. It is idle time: searches that come "
            "meanwhile go first.",
            Ask("sum by (instance) (rate(winnow_observe_seconds_total{}[.]))", "{{instance}}"),
            unit="percentunit",
            width=12,
        ),
    ],
)

QUALITY = Board(
    "quality",
    "Winnow: are answers as good as they were",
    "Without labels: sampled searches are looked at again in idle time, exactly and deeper. From the top: what is red; "
    "does the index find what is there; is enough of it reranked, and read; did questions or answers change.",
    [NOW, FOUND, DEEP, READ, CHANGED, COST],
    since="now-24h",
    every="1m",
)
