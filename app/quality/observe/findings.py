"""Findings: what figures say, in plain words, with the setting to change. Nothing is said from too few searches."""

from __future__ import annotations

from collections.abc import Iterator

from app.quality.observe.types import LEAST, Depth, Drift, Figure, Finding, Lengths, Lift, Recall, Report

FEW = 0.05
"""A share that is surely below this is nothing to act on."""

UNCHANGED = 0.8
USUAL_UNANSWERED = 0.1
SPARE = 0.8
"""A needed depth below this part of the present one is worth telling."""

EXACT = (
    "Of those sampled no search asked the graph: they compare with every allowed vector, which is exact, or with none."
)

SIGNALS = {
    "top_score": "The best hits score otherwise than before",
    "query_distance": "Queries are at another distance from the chunks found for them",
    "corpus_distance": "Queries are at another distance from the corpus as a whole",
}


def findings(report: Report) -> list[Finding]:
    """The gravest first."""
    order = ("warning", "advice", "info")
    return sorted(_every(report), key=lambda found: order.index(found.severity))


def _every(report: Report) -> Iterator[Finding]:
    if report.counts.watched < LEAST:
        yield Finding("info", "searches", f"Not enough searches yet: {report.counts.watched} of {LEAST}.")
        return
    yield from _recall(report)
    yield from _depth(report.depth)
    yield from _lift(report.rerank)
    yield from _lengths(report.lengths)
    yield from _drift(report.drift)
    yield from _unanswered(report.unanswered)


def _recall(report: Report) -> Iterator[Finding]:
    recall, outcomes = report.recall, report.counts.outcomes
    found = recall.at.get(10) if recall else None
    if recall is None or found is None:
        if outcomes.get("exact"):
            yield Finding("info", "recall", EXACT)
    elif found.searches < LEAST:
        yield _wait("recall", found.searches)
    elif found.high < recall.objective or (found.value < recall.objective and recall.exhausted):
        yield Finding(
            "warning", "recall", f"{_recalled(found)}, below the objective {recall.objective:g}: {_remedy(recall)}"
        )
    elif found.low < recall.objective:
        yield Finding(
            "info", "recall", f"{_recalled(found)}: whether it meets the objective {recall.objective:g} is not sure."
        )
    else:
        yield Finding("info", "recall", f"{_recalled(found)}, which meets the objective {recall.objective:g}.")


def _recalled(found: Figure) -> str:
    return (
        f"recall@10 of the graph is {found.value:.3f} ({found.low:.3f} to {found.high:.3f}, {found.searches} searches)"
    )


def _remedy(recall: Recall) -> str:
    if recall.exhausted:
        return "the effort is as high as it goes; build the graph with a higher WINNOW_INDEX_M."
    if recall.tuned:
        return f"the effort, {recall.ef}, is being raised."
    return f"raise WINNOW_INDEX_EF above {recall.ef}, or set WINNOW_TUNE_EF."


def _depth(depth: Depth | None) -> Iterator[Finding]:
    if depth is None:
        return
    if depth.missed.searches < LEAST:
        yield _wait("depth", depth.missed.searches)
    elif depth.needed > depth.candidates and depth.missed.low > FEW:
        yield Finding(
            "advice",
            "depth",
            f"{_percent(depth.missed.value)} of sampled queries had a better answer below rank {depth.candidates}: "
            f"raise candidates to {depth.needed}, which hold 95 % of the ten best{_at_least(depth)}; cost "
            f"{depth.costs_ms:+.0f} ms.",
            "WINNOW_CANDIDATES",
        )
    elif depth.needed < SPARE * depth.candidates:
        yield Finding(
            "advice",
            "depth",
            f"95 % of the ten best answers were among the first {depth.needed} candidates of {depth.candidates}: with "
            f"so many a search would take {-depth.costs_ms:.0f} ms less.",
            "WINNOW_CANDIDATES",
        )
    else:
        yield Finding(
            "info", "depth", f"{depth.candidates} candidates are about as many as hold 95 % of the ten best answers."
        )


def _at_least(depth: Depth) -> str:
    """Some of the best may stand where nobody has looked."""
    return f" (of {depth.looked_at}: there may be more below)" if depth.needed > SPARE * depth.looked_at else ""


def _lift(lift: Lift | None) -> Iterator[Finding]:
    if lift is None:
        return
    if lift.unchanged.searches < LEAST:
        yield _wait("reranking", lift.unchanged.searches)
    elif lift.unchanged.low > UNCHANGED:
        yield Finding(
            "advice",
            "reranking",
            f"Reranking changed nothing of the ten best in {_percent(lift.unchanged.value)} of searches: ask fewer "
            "candidates, or let `winnow calibrate` say whether it pays.",
            "WINNOW_CANDIDATES",
        )
    else:
        yield Finding(
            "info",
            "reranking",
            f"Reranking kept {_percent(lift.overlap.value)} of the first stage's ten best, and all of their order in "
            f"{_percent(lift.unchanged.value)} of searches.",
        )


def _lengths(lengths: Lengths | None) -> Iterator[Finding]:
    if lengths is None:
        return
    if lengths.cut and lengths.cut.searches >= LEAST and lengths.cut.low > FEW:
        yield Finding(
            "warning",
            "truncation",
            f"In {_percent(lengths.cut.value)} of searches the reranker saw only a part of query and chunk: shorten "
            "queries, make chunks shorter, or search with on_truncation: window.",
            "WINNOW_CHUNK_TOKENS",
        )
    if lengths.long.searches >= LEAST and lengths.long.low > FEW:
        yield Finding(
            "advice",
            "query length",
            f"{_percent(lengths.long.value)} of queries are longer than the {lengths.reserve} tokens that chunks leave "
            f"them (the longest has {lengths.query_longest}): create collections with a larger reserve.",
            "WINNOW_QUERY_RESERVE",
        )


def _drift(drift: Drift | None) -> Iterator[Finding]:
    for signal in drift.signals if drift else ():
        if drift and signal.moved:
            yield Finding(
                "warning",
                "drift",
                f"{SIGNALS[signal.name]}: the median is {signal.median:.3f}, and was {signal.reference_median:.3f} "
                f"(distance {signal.distance:.2f}, by chance below {signal.null:.2f}). Look at recent queries and "
                "documents; if this is what searches are like now, POST /quality/reference.",
            )


def _unanswered(unanswered: Figure | None) -> Iterator[Finding]:
    if unanswered and unanswered.searches >= LEAST and unanswered.low > USUAL_UNANSWERED:
        yield Finding(
            "warning",
            "unanswered",
            f"{_percent(unanswered.value)} of searches had no good answer: nothing that was relevant enough, or a best "
            "hit that scored among the lowest of the reference. Look for what is missing in the collection.",
        )


def _wait(about: str, searches: int) -> Finding:
    return Finding("info", about, f"Not enough searches yet to speak of {about}: {searches} of {LEAST}.")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
