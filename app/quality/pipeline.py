"""The offline system under test: a service's stages without the service, and every arm of it measured side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np

from app.quality import curve
from app.quality.arms import arms
from app.quality.blend import SECOND, blend_of, weights
from app.quality.comparing import Comparer
from app.quality.corpus import Corpus, split
from app.quality.embedding import embed, weigh
from app.quality.first_stages import RERANKED, Asked, FirstStages, Proposal
from app.quality.measures import DEPTH, NDCG, measure
from app.quality.scoring import Pairs, Scorer, Timing
from app.quality.statistics import Table, estimates
from app.quality.types import Ceiling, Curve, Dataset, Evaluation, Latency, Option, Run
from app.quality.variants import BadSetup, Setup
from app.quality.workbench import Workbench
from app.stages.chunk import check_recipe
from app.stages.pace import enough
from app.stores.lexical import K1, TantivyIndex
from app.stores.sparse import InvertedIndex
from app.stores.vectors import shortened
from app.types import Candidates, ChunkIds, Expansion, LexicalIndex, SparseIndex, Wording
from models.types import BiEncoder, Reranker, SparseEncoder, SparseVector

FEW = 100
"""Below so many queries the intervals are wide and a mean is mostly luck."""

DEEP = 1000
"""Chunks that first-stage rankings, and so fusion, go down to; more where that is less than 100 documents."""

AGAIN = 10
"""Queries whose pairs are scored once more when only their time is not known."""

TOP = 10
"""Hits of a search that does not say how many."""

LATE = "late"
"""Of an arm: candidates are put in order by their tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Stand:
    """A variant on a dataset, ready to be asked."""

    dataset: Dataset
    setup: Setup
    encoder: BiEncoder
    reranker: Reranker
    sparse: SparseEncoder | None
    corpus: Corpus
    stages: FirstStages
    proposals: list[Proposal]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the cross-encoder made of the candidates, by query."""

    pairs: list[Pairs]
    timings: list[Timing]


def evaluate(dataset: Dataset, setup: Setup, bench: Workbench, seed: int) -> tuple[Evaluation, list[Run]]:
    """Everything there is to measure, and the runs that it was measured on."""
    bench = bench.computing_in(setup.precision)
    stand = _prepare(dataset, setup, bench)
    judged = _judge(stand, bench) if setup.rerank else None
    runs = _runs(stand, judged)
    tables = {run.arm: [measure(run, dataset.judgements, dataset.queries)] for run in runs}
    evaluation = Evaluation(
        dataset=dataset.name,
        split=dataset.split,
        variant=setup.name,
        settings=_settings(stand, bench),
        documents=len(dataset.documents),
        chunks=len(stand.corpus.texts),
        queries=dataset.queries,
        served=_served(stand, judged),
        arms=arms(tables, seed),
        ceilings=tuple(_ceiling(stand, first, seed) for first in stand.stages.names),
        latencies=tuple(_latencies(stand, judged)),
        curves=tuple(_curves(stand, judged, seed)) if judged and len(setup.candidates) > 1 else (),
        warnings=tuple(_warnings(stand, judged)),
    )
    return evaluation, runs


def check(setup: Setup, bench: Workbench) -> None:
    """Opens a variant's models, which stay open, and refuses what they can't do: not after hours spent on others."""
    bench = bench.computing_in(setup.precision)
    encoder, reranker, sparse = _models(setup, bench)
    check_recipe(setup.recipe, [encoder, *([sparse] if sparse else [])], reranker, bench.query_reserve)
    if setup.dims is not None and setup.dims > encoder.dimensions:
        raise BadSetup(f"dims is {setup.dims}, and vectors of {setup.encoder} have {encoder.dimensions} numbers.")


def runs(dataset: Dataset, setup: Setup, bench: Workbench) -> list[Run]:
    """What every way through the stages finds, for questions that nobody has judged yet."""
    bench = bench.computing_in(setup.precision)
    stand = _prepare(dataset, setup, bench)
    return _runs(stand, _judge(stand, bench) if setup.rerank else None)


def _models(setup: Setup, bench: Workbench) -> tuple[BiEncoder, Reranker, SparseEncoder | None]:
    sparse = bench.sparse(setup.sparse) if setup.sparse else None
    return bench.encoder(setup.encoder), bench.reranker(setup.reranker), sparse


def _prepare(dataset: Dataset, setup: Setup, bench: Workbench) -> Stand:
    encoder, reranker, sparse = _models(setup, bench)
    corpus = split(dataset, setup.recipe, encoder, reranker, sparse, bench)
    comparer = _comparer(encoder, setup, bench)
    most = len(dataset.queries) * setup.depth  # where more can be compared than there are, all are made ready
    ahead = comparer if len(corpus.texts) <= most else None
    vectors = embed(bench, encoder, corpus.texts, "document", f"{dataset.name}: embed chunks", ahead)
    terms = weigh(bench, sparse, corpus.texts, "document", f"{dataset.name}: weigh chunks") if sparse else None
    depth = min(max(DEEP, setup.depth, corpus.depth(DEPTH)), len(corpus.texts))
    words = _words(corpus, setup)
    stages = FirstStages(
        shortened(vectors, setup.dims), words, _index(terms), corpus.texts, comparer, setup.fusion, depth
    )
    asked = _asked(dataset, setup, encoder, sparse, comparer, bench)
    notes = (*dataset.notes, *corpus.notes, *_cut(dataset, encoder, sparse))
    with bench.track(f"{dataset.name}: find candidates", len(asked)) as advance:
        proposals = []
        for proposal in stages.propose(asked, setup.depth):
            proposals.append(proposal)
            advance(1)
    return Stand(dataset, setup, encoder, reranker, sparse, corpus, stages, proposals, notes)


def _comparer(encoder: BiEncoder, setup: Setup, bench: Workbench) -> Comparer | None:
    return Comparer(encoder, encoder.late, bench) if encoder.late and setup.late else None


def _asked(
    dataset: Dataset,
    setup: Setup,
    encoder: BiEncoder,
    sparse: SparseEncoder | None,
    comparer: Comparer | None,
    bench: Workbench,
) -> list[Asked]:
    texts = [query.text for query in dataset.queries]
    vectors = shortened(embed(bench, encoder, texts, "query", f"{dataset.name}: embed queries", comparer), setup.dims)
    if sparse is None:
        return [Asked(text, vector, None) for text, vector in zip(texts, vectors, strict=True)]
    terms = weigh(bench, sparse, texts, "query", f"{dataset.name}: weigh queries")
    return [Asked(*each) for each in zip(texts, vectors, terms, strict=True)]


def _cut(dataset: Dataset, encoder: BiEncoder, sparse: SparseEncoder | None) -> Iterator[str]:
    """What the encoders can't read of the queries."""
    texts = [query.text for query in dataset.queries]
    for model, name in ((encoder, "encoder"), (sparse, "sparse encoder")):
        cut = sum(tokens.truncated for tokens in model.tokenize(texts, "query")) if model else 0
        yield from _some(cut, f"queries are longer than the {name} reads")


def _index(vectors: Sequence[SparseVector] | None) -> SparseIndex | None:
    """A service's own index of terms, where there are any."""
    if vectors is None:
        return None
    index = InvertedIndex()
    index.apply([Expansion(number, number, vector) for number, vector in enumerate(vectors)])
    return index


def _words(corpus: Corpus, setup: Setup) -> LexicalIndex:
    """A service's own lexical index, in memory."""
    index = TantivyIndex(setup.language)
    index.apply([Wording(number, number, text) for number, text in enumerate(corpus.texts)])
    return index


def _judge(stand: Stand, bench: Workbench) -> Judged:
    """Score every candidate of every arm, once."""
    scorer, judged = Scorer(stand.reranker, bench), Judged([], [])
    total = sum(len(proposal.pool) for proposal in stand.proposals)
    with bench.track(f"{stand.dataset.name}: rerank", total) as advance:
        for number, (query, proposal) in enumerate(zip(stand.dataset.queries, stand.proposals, strict=True)):
            served = proposal.rankings[stand.setup.first].chunks[: stand.setup.depth]
            timing = scorer.time(query.text, _texts(stand, served), again=number < AGAIN)
            judged.timings.extend([timing] if timing else [])
            judged.pairs.append(scorer.score(query.text, _texts(stand, proposal.pool)))
            advance(len(proposal.pool))
    return judged


def _runs(stand: Stand, judged: Judged | None) -> list[Run]:
    queries = stand.dataset.queries
    rankings = {first: [proposal.rankings[first] for proposal in stand.proposals] for first in stand.stages.names}
    if stand.stages.comparer:
        for first in RERANKED:
            rankings[f"{first}+{LATE}"] = list(_compared(stand, first))
    if judged:
        for first in RERANKED:
            for second in SECOND:
                rankings[f"{first}+{second}"] = list(_reranked(stand, judged, first, second, stand.setup.depth))
    return [
        Run(arm, {query.id: stand.corpus.ranked(each, DEPTH) for query, each in zip(queries, ranked, strict=True)})
        for arm, ranked in rankings.items()
    ]


def _compared(stand: Stand, first: str) -> Iterator[Candidates]:
    """The candidates of a first stage in the order of their tokens."""
    for proposal in stand.proposals:
        places = proposal.places(first, stand.setup.depth)
        yield Candidates(proposal.pool[places], proposal.compared(first, places))


def _reranked(stand: Stand, judged: Judged, first: str, second: str, depth: int) -> Iterator[Candidates]:
    """The candidates of a first stage in the order of a second one; equals stay in the order of the first."""
    reads = [depth] * len(stand.proposals)
    return _partly(stand, judged, first, second, depth, reads)


def _partly(
    stand: Stand, judged: Judged, first: str, second: str, depth: int, reads: Sequence[int]
) -> Iterator[Candidates]:
    """The same where of each query's candidates so many were read, and the rest count as the worst of those."""
    weighed = weights(stand.reranker, first, second)
    for proposal, pairs, read in zip(stand.proposals, judged.pairs, reads, strict=True):
        places = proposal.places(first, depth)
        scores = pairs.scores[places].copy()
        scores[read:] = scores[:read].min(initial=np.inf)
        final = proposal.known(places, scores).weighed(weighed)
        order = np.argsort(-final, kind="stable")
        yield Candidates(proposal.pool[places][order], final[order])


def _enough(stand: Stand, judged: Judged, first: str) -> list[int]:
    """How many candidates of each query are read by a search that stops where no more could come among the best."""
    weighed, found = weights(stand.reranker, first, "blend"), []
    for proposal, pairs in zip(stand.proposals, judged.pairs, strict=True):
        places = proposal.places(first, stand.setup.depth)
        unread = proposal.known(places).weighed(weighed)
        read = proposal.known(places, pairs.scores[places]).weighed(weighed)
        found.append(enough(unread, read - unread, TOP))
    return found


def _ceiling(stand: Stand, first: str, seed: int) -> Ceiling:
    recall, ndcg = estimates([_reachable(stand, first, stand.setup.depth)], seed)
    return Ceiling(first, stand.setup.depth, recall, ndcg)


def _reachable(stand: Stand, first: str, depth: int) -> Table:
    """The candidates' recall, and their nDCG@10 in the best order, of every query."""
    best: dict[str, dict[str, float]] = {}
    for query, proposal in zip(stand.dataset.queries, stand.proposals, strict=True):
        ranking = proposal.rankings[first]
        held = stand.corpus.ranked(Candidates(ranking.chunks[:depth], ranking.scores[:depth]), depth)
        best[query.id] = {name: float(stand.dataset.judgements[query.id].get(name, 0)) for name in held}
    return measure(Run(first, best), stand.dataset.judgements, stand.dataset.queries, (f"recall@{depth}", NDCG))


def _curves(stand: Stand, judged: Judged, seed: int) -> Iterator[Curve]:
    """Of the blended arms."""
    for first in RERANKED:
        every = {depth: [depth] * len(stand.proposals) for depth in stand.setup.candidates}
        quality = {depth: _quality(stand, judged, first, depth, reads) for depth, reads in every.items()}
        cost = {depth: _cost(stand, judged, first, depth, reads) for depth, reads in every.items()}
        reads = _enough(stand, judged, first)
        deepest = stand.setup.depth
        values, spent = _quality(stand, judged, first, deepest, reads), _cost(stand, judged, first, deepest, reads)
        auto = curve.point(float(np.mean(reads)), values, spent, seed)
        yield curve.draw(f"{first}+blend", quality, cost, auto, seed)


def _quality(stand: Stand, judged: Judged, first: str, depth: int, reads: Sequence[int]) -> Table:
    """nDCG@10 after reranking so many, and the recall of all candidates, of every query."""
    ranked = zip(stand.dataset.queries, _partly(stand, judged, first, "blend", depth, reads), strict=True)
    run = Run(first, {query.id: stand.corpus.ranked(candidates, DEPTH) for query, candidates in ranked})
    ndcg = measure(run, stand.dataset.judgements, stand.dataset.queries, (NDCG,))
    return np.column_stack([ndcg[:, 0], _reachable(stand, first, depth)[:, 0]])


def _cost(stand: Stand, judged: Judged, first: str, depth: int, reads: Sequence[int]) -> curve.Cost:
    """Tokens that the cross-encoder reads for one query, and the milliseconds that they take by the measured rate."""
    each = zip(stand.proposals, judged.pairs, reads, strict=True)
    tokens = float(
        np.mean([pairs.tokens[proposal.places(first, depth)[:read]].sum() for proposal, pairs, read in each])
    )
    timed = sum(timing.tokens for timing in judged.timings)
    rate = sum(timing.seconds for timing in judged.timings) / timed if timed else None
    return tokens, None if rate is None else 1000 * tokens * rate


def _latencies(stand: Stand, judged: Judged | None) -> Iterator[Latency]:
    setup = stand.setup
    taken = stand.stages.time(stand.encoder, stand.sparse, setup.dims, setup.depth, stand.dataset.queries)
    for stage, seconds in taken.items():
        yield latency(stage, seconds)
    if judged and judged.timings:
        stored = sum(timing.stored for timing in judged.timings)
        yield latency("rerank", [timing.seconds for timing in judged.timings], stored)


def latency(stage: str, seconds: Sequence[float], stored: int = 0) -> Latency:
    p50, p95 = np.percentile(seconds, (50, 95)) * 1000
    return Latency(stage, float(p50), float(p95), len(seconds), stored)


def _served(stand: Stand, judged: Judged | None) -> str:
    """The arm that a service with these settings answers by."""
    second = "blend" if judged else LATE if stand.stages.comparer else ""
    return f"{stand.setup.first}+{second}" if second else stand.setup.first


def _warnings(stand: Stand, judged: Judged | None) -> Iterator[str]:
    yield from few(stand.dataset)
    yield from stand.notes
    if judged:
        cut = sum(pairs.truncated for pairs in judged.pairs)
        yield from _some(cut, "pairs of query and chunk are longer than the reranker reads")
    if (mode := stand.setup.mode) not in ("hybrid", "dense"):
        yield f"With WINNOW_MODE={mode} a service answers by another arm than these: --collection measures that."


def few(dataset: Dataset) -> Iterator[str]:
    if (amount := len(dataset.queries)) < FEW:
        yield f"{amount} queries are few: differences smaller than the intervals mean nothing. {FEW} or more tell more."


def _some(count: int, what: str) -> tuple[str, ...]:
    return (f"{count:,} {what}.",) if count else ()


def _texts(stand: Stand, chunks: ChunkIds) -> list[str]:
    return [stand.corpus.texts[chunk] for chunk in chunks]


def _settings(stand: Stand, bench: Workbench) -> Mapping[str, Option]:
    setup = stand.setup
    shown = {name: getattr(setup, name) for name in ("encoder", "reranker", "language", "rerank")}
    blends = {f"{first}_blend": str(blend_of(stand.reranker.blends, first)) for first in RERANKED}
    if late := stand.stages.comparer:
        blends |= {f"{first}_late": str(blend_of(late.blends, first)) for first in RERANKED}
    options = bench.options
    weighing = {"sparse": setup.sparse, "sparse_fingerprint": stand.sparse.fingerprint} if stand.sparse else {}
    return {
        **shown,
        **weighing,
        **asdict(setup.recipe),
        **blends,
        "device": stand.encoder.device,
        "precision": stand.encoder.precision,
        "reranker_precision": stand.reranker.precision,
        "runtime": stand.encoder.runtime,
        "threads": options.threads,
        "dims": min(setup.dims or stand.encoder.dimensions, stand.encoder.dimensions),
        "candidates": setup.depth,
        "encoder_fingerprint": stand.encoder.fingerprint,
        "reranker_fingerprint": stand.reranker.fingerprint,
        "ranking_depth": stand.stages.depth,
        "fusion": str(setup.fusion),
        "bm25": f"tantivy {version('tantivy')}, k1={K1}",
    }
