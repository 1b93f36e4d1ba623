"""What a calibration found out, in words for a terminal and a page."""

from __future__ import annotations

from collections.abc import Iterator

from app.quality.calibrate import Findings
from app.quality.measures import NDCG
from app.quality.reliability import Errors
from app.quality.types import Difference
from app.types import Calibration
from models.types import Blend


def size(found: Findings) -> str:
    refused = f", {found.unanswerable} of them without an answer in the collection" if found.unanswerable else ""
    return f"fitted to {found.fitting} queries, measured with {found.measuring} others{refused}"


def blend(found: Findings) -> str:
    done = "is taken" if found.taken else "is not taken, since it does no better"
    told = _gain(found.refit_gain)
    return f"The refitted blend ({_weights(found.refitted)}, own: {_weights(found.own)}) {done}: {told}."


def reranking(found: Findings, calibration: Calibration) -> str:
    if calibration.rerank:
        return f"Reranking changes {NDCG} by {_gain(found.rerank_gain)}."
    return f"{calibration.advice} Searches are not reranked unless they say so."


def errors(found: Findings) -> Iterator[tuple[str, Errors]]:
    """What can be said of which documents: before, and with the maps that were learned."""
    reranked, unreranked = found.reranked.reliability, found.unreranked.reliability
    for name, measured in (
        ("reranker's own scores", found.before),
        ("reranked", reranked),
        ("not reranked", unreranked),
    ):
        yield f"{name}, first ten", measured.shown
        yield f"{name}, first", measured.first
        yield f"{name}, all", measured.candidates


def _weights(blend: Blend) -> str:
    late = f", late {blend.late:g}" if blend.late else ""
    return f"rerank {blend.rerank:g}, dense {blend.dense:g}, lexical {blend.lexical:g}{late}"


def _gain(difference: Difference) -> str:
    estimate = difference.estimate
    return f"{estimate.mean:+.3f} (95 % {estimate.low:+.3f} … {estimate.high:+.3f}, p {difference.p:.3f})"
