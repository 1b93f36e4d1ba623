"""Calibration: one half of the labelled queries fits blend and maps, the other half says how good they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.errors import WinnowError
from app.quality.blend import weights_of
from app.quality.measures import NDCG, measure
from app.quality.monotone import Labelled, fit
from app.quality.reblend import Listed, fit_blend
from app.quality.reliability import Expected, Reliability, expected, read_as_probabilities, reliability
from app.quality.statistics import differences, estimates
from app.quality.types import Difference, Estimate, Query, Run
from app.stages.calibrate import standing
from app.types import Calibration, Fusion, Mode, Scale
from models.types import Blend

Answer = Mapping[str, Any]
"""What /search answers."""

Numbers = NDArray[np.float64]

FIRST: Mapping[Mode, str] = {"hybrid": "fused", "dense": "dense", "lexical": "lexical", "sparse": "sparse"}
"""The stage that has the last word without reranking."""

STAGES = ("rerank", "dense", "lexical", "late")
"""Whose scores a blend adds up."""

FIRST_STAGE, ALONE, OWN = "first stage", "reranker alone", "own blend"
REFITTED, WITHOUT = "refitted blend", "blend without the reranker"
"""Ways to put candidates in order."""

FEW = 100
"""Below so many queries a half of them says little."""
FEWEST = 20
"""Below so many nothing can be said at all."""
UNKNOWN = "none of their judged documents among the candidates"
SIGNIFICANT = 0.05
"""A difference that chance makes more often may be luck."""


class TooLittle(WinnowError):
    """Labels that nothing can be learned from."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query, and what is known of its documents: grades of those that were judged."""

    query: Query
    grades: Mapping[str, int]
    held: int
    """Relevant documents that the collection holds: with none of them it ought to be refused."""


@dataclass(frozen=True, slots=True)
class Basis:
    """The service's own ways, which a calibration holds for."""

    collection: str
    mode: Mode
    encoder: str
    """By its fingerprint."""
    reranker: str
    reranker_name: str
    sparse: str
    """Empty without one."""
    late: str
    """What stands for the vectors of tokens; empty without any."""
    blend: Blend
    """The reranker's own."""
    unreranked: Blend | None
    """What puts candidates in order by their tokens; None where the first stage has the last word."""
    fusion: Fusion


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question, and what the stages thought of each candidate."""

    question: Question
    documents: list[str]
    scores: Numbers
    """A row for each: of the reranker, the cosine, the lexical share, and its tokens."""
    first: Numbers
    """What has the last word without reranking."""
    relevant: NDArray[np.bool_]
    counted: set[str]
    """Documents of which it is known, or supposed, whether they are relevant."""


@dataclass(frozen=True, slots=True)
class Order:
    """How well one way of scoring puts relevant documents first."""

    name: str
    ndcg: Estimate


@dataclass(frozen=True, slots=True)
class Mapped:
    """A map from scores to probabilities, and what it is worth."""

    method: str
    losses: Mapping[str, float]
    reliability: Reliability


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that one calibration found out, on queries that nothing was fitted to."""

    seed: int
    candidates: int
    fitting: int
    measuring: int
    unanswerable: int
    """Of those that it was measured with."""
    own: Blend
    refitted: Blend
    taken: bool
    """Whether the refitted blend takes the place of the reranker's own."""
    orders: tuple[Order, ...]
    refit_gain: Difference
    rerank_gain: Difference
    before: Reliability
    """Of the reranker's own scores, read as probabilities: what there was without labels."""
    reranked: Mapped
    unreranked: Mapped
    warnings: tuple[str, ...]


def asked(question: Question, answer: Answer, basis: Basis, *, judged_only: bool) -> Asked:
    """What a search says, in its order without reranking; unjudged documents are irrelevant or, if asked, not there."""
    hits = sorted(answer["hits"], key=lambda hit: -_first(hit, basis))
    documents = [hit["document_id"] for hit in hits]
    return Asked(
        question,
        documents,
        np.array([_row(hit) for hit in hits], float).reshape(-1, len(STAGES)),
        np.array([_first(hit, basis) for hit in hits]),
        np.array([question.grades.get(name, 0) > 0 for name in documents], bool),
        {name for name in documents if name in question.grades or not (judged_only and question.held)},
    )


def calibrate(every: Sequence[Asked], basis: Basis, candidates: int, seed: int) -> tuple[Calibration, Findings]:
    """All of it. Questions without candidates teach nothing: they are refused by themselves. Nor do those with no
    candidate that counts: nobody knows whether what they find is relevant."""
    fitting, measuring = _halves([each for each in every if each.counted], seed)
    unknown = sum(bool(each.documents) and not each.counted for each in every)
    _check(fitting, measuring, unknown)
    fitted = {name: fit_blend(_lists(fitting, basis), rerank=name == REFITTED) for name in (REFITTED, WITHOUT)}
    blends = {ALONE: Blend(), OWN: basis.blend, **fitted}
    values = _values(measuring, blends)
    served = REFITTED if values[REFITTED].mean() > values[OWN].mean() else OWN
    gains = _gains(values, served, seed)
    scales, mapped = zip(*(_mapped(fitting, measuring, blend, seed) for blend in (blends[served], None)), strict=True)
    findings = Findings(
        seed=seed,
        candidates=candidates,
        fitting=len(fitting),
        measuring=len(measuring),
        unanswerable=sum(not each.question.held for each in measuring),
        own=basis.blend,
        refitted=blends[REFITTED],
        taken=served == REFITTED,
        orders=tuple(_orders(values, seed)),
        refit_gain=gains[0],
        rerank_gain=gains[1],
        before=_before(measuring, seed),
        reranked=mapped[0],
        unreranked=mapped[1],
        warnings=tuple(_warnings(len(every), measuring, unknown)),
    )
    advice = _advice(values, served, gains[1], basis)
    return _calibration(basis, scales, blends[served] if findings.taken else None, advice, findings), findings


def _calibration(
    basis: Basis, scales: Sequence[Scale], blend: Blend | None, advice: str, findings: Findings
) -> Calibration:
    return Calibration(
        mode=basis.mode,
        encoder=basis.encoder,
        reranker=basis.reranker,
        reranked=scales[0],
        unreranked=scales[1],
        fusion=basis.fusion,
        blend=blend,
        rerank=not advice,
        advice=advice,
        measured=orjson.loads(orjson.dumps(findings)),
        sparse=basis.sparse,
        late=basis.late,
    )


def _first(hit: Mapping[str, Any], basis: Basis) -> float:
    """The score that it has without reranking."""
    if basis.unreranked is None:
        return _score(hit, FIRST[basis.mode])
    return float(np.dot(_row(hit), weights_of(basis.unreranked)))


def _row(hit: Mapping[str, Any]) -> list[float]:
    return [_score(hit, stage) for stage in STAGES]


def _score(hit: Mapping[str, Any], stage: str) -> float:
    """A stage that was not asked adds nothing."""
    found = hit["stages"].get(stage)
    return float(found["score"]) if found else 0.0


def _halves(every: Sequence[Asked], seed: int) -> tuple[list[Asked], list[Asked]]:
    """Drawn at random; each half has its share of questions that nothing answers."""
    draw = np.random.default_rng(seed)
    halves: tuple[list[Asked], list[Asked]] = ([], [])
    for answerable in (True, False):
        alike = [each for each in every if bool(each.question.held) is answerable]
        for place, at in enumerate(draw.permutation(len(alike)).tolist()):
            halves[place % 2].append(alike[at])
    return halves


def _check(fitting: Sequence[Asked], measuring: Sequence[Asked], unknown: int) -> None:
    halves = fitting, measuring
    answerable = sum(bool(each.question.held) for half in halves for each in half)
    if answerable < FEWEST:
        more = f" ({unknown} more have {UNKNOWN})" if unknown else ""
        raise TooLittle(
            f"The collection answers {answerable} of the labelled queries{more}; {FEWEST} are the least that "
            f"anything can be learned from, {FEW} give figures to rely on. Label more, or ingest the documents that "
            "they are about."
        )
    if not all(any(each.relevant.any() for each in half) for half in halves):
        raise TooLittle("No relevant document is among the candidates: ask for more with --candidates.")
    if all(each.relevant[_best(each, each.first)].all() for half in halves for each in half):
        raise TooLittle("Every candidate counts as relevant: leave out --judged-only, or label irrelevant ones as 0.")


def _lists(fitting: Sequence[Asked], basis: Basis) -> list[Listed]:
    """Documents by their best chunks, as the reranker's own blend has them."""
    answerable = [each for each in fitting if each.question.held]
    best = [_best(each, _weighed(each, basis.blend)) for each in answerable]
    return [Listed(each.scores[own], each.relevant[own]) for each, own in zip(answerable, best, strict=True)]


def _weighed(each: Asked, blend: Blend | None) -> Numbers:
    """Final scores; without a blend those of a search that is not reranked."""
    return each.first if blend is None else each.scores @ weights_of(blend)


def _best(each: Asked, final: Numbers) -> list[int]:
    """The best chunk of each document that counts, best first."""
    places: dict[str, int] = {}
    for place in np.argsort(-final, kind="stable").tolist():
        places.setdefault(each.documents[place], place)
    return [place for name, place in places.items() if name in each.counted]


def _values(measuring: Sequence[Asked], blends: Mapping[str, Blend]) -> dict[str, Numbers]:
    """nDCG@10 of every answerable query, in each order."""
    answerable = [each for each in measuring if each.question.held]
    queries = [each.question.query for each in answerable]
    judgements = {each.question.query.id: each.question.grades for each in answerable}
    found = {}
    for name, blend in {FIRST_STAGE: None, **blends}.items():
        scores = {each.question.query.id: _scores(each, _weighed(each, blend)) for each in answerable}
        found[name] = measure(Run(name, scores), judgements, queries, [NDCG])[:, 0]
    return found


def _scores(each: Asked, final: Numbers) -> dict[str, float]:
    """Ranks, since a measure would break ties by the documents' names."""
    return {each.documents[place]: -float(rank) for rank, place in enumerate(_best(each, final))}


def _gains(values: Mapping[str, Numbers], served: str, seed: int) -> list[Difference]:
    """The refitted blend's over the reranker's own, and that of reranking over leaving it out."""
    ours = np.column_stack([values[REFITTED], values[served]])
    theirs = np.column_stack([values[OWN], values[FIRST_STAGE]])
    return differences([NDCG, NDCG], [ours], [theirs], seed)


def _orders(values: Mapping[str, Numbers], seed: int) -> Iterator[Order]:
    for name, estimate in zip(values, estimates([np.column_stack(list(values.values()))], seed), strict=True):
        yield Order(name, estimate)


def _mapped(
    fitting: Sequence[Asked], measuring: Sequence[Asked], blend: Blend | None, seed: int
) -> tuple[Scale, Mapped]:
    learned = fit([_labelled(each, blend) for each in fitting], seed)
    held_out = [expected(learned.scale, _labelled(each, blend), each.question.held) for each in measuring]
    return learned.scale, Mapped(learned.method, learned.losses, reliability(held_out, seed))


def _before(measuring: Sequence[Asked], seed: int) -> Reliability:
    """Documents in the reranker's own order."""
    every = [_labelled(each, Blend()) for each in measuring]
    said = read_as_probabilities(np.concatenate([each.standing.scores for each in every]))
    parts = np.split(said, np.cumsum([len(each.relevant) for each in every])[:-1])
    rows = zip(parts, every, measuring, strict=True)
    return reliability([Expected(part, each.relevant, own.question.held) for part, each, own in rows], seed)


def _labelled(each: Asked, blend: Blend | None) -> Labelled:
    final = _weighed(each, blend)
    best = _best(each, final)
    return Labelled(standing(final, each.documents).of(best), each.relevant[best].astype(float))


def _advice(values: Mapping[str, Numbers], served: str, gain: Difference, basis: Basis) -> str:
    """Why not to rerank; nothing where reranking does some good."""
    means = {name: float(found.mean()) for name, found in values.items()}
    told = (
        f"nDCG@10 {means[FIRST_STAGE]:.3f} without it, {means[ALONE]:.3f} by it alone, {means[served]:.3f} blended "
        f"({gain.estimate.mean:+.3f}, 95 % {gain.estimate.low:+.3f} … {gain.estimate.high:+.3f}, p {gain.p:.3f}, "
        f"{len(values[served])} queries)"
    )
    who = f"On the labels of this collection the reranker {basis.reranker_name}"
    luck = "" if gain.p < SIGNIFICANT else " With these queries alone that may be luck."
    if means[served] < means[FIRST_STAGE]:
        return f"{who} makes the order worse: {told}.{luck}"
    if means[ALONE] < means[FIRST_STAGE] and means[served] <= means[WITHOUT]:
        return f"{who} adds nothing to what the first stages say: {told}."
    return ""


def _warnings(asked: int, measuring: Sequence[Asked], unknown: int) -> Iterator[str]:
    if unknown:
        yield f"{unknown} queries have {UNKNOWN}: they are left out."
    if asked < FEW:
        yield f"{asked} queries are few: below {FEW} the figures are mostly luck."
    if all(each.question.held for each in measuring):
        yield "No query is without an answer in the collection, so nobody knows how many of such are refused."
