"""Finds passages that look like answers and are not: the negatives a model learns most from.

`sentence_transformers.util.mine_hard_negatives` finds them by vectors alone. This finds them by BM25 too, source by
source, leaves out what says the same as the answer, keeps both scores for the reranker, and can be interrupted.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.catalog import locate
from models.folder import check_folder, hash_folder
from models.training.backbone import prompted
from models.training.groups import Group
from models.training.lexicon import Lexicon
from models.training.machine import Machine
from models.training.pairs import (
    Pair,
    Passage,
    answers,
    described,
    given_negative,
    read_pairs,
    read_passages,
    sample,
    titles_tell_nothing,
)
from models.training.run import Plan, Run
from models.training.settings import MiningSettings, asked_prompts, caps
from models.training.vectors import Floats, VectorFiles
from models.training.watch import Watch
from models.types import ModelOptions

Rows = NDArray[np.int64]

FUSION = 60
"""How little the first ranks stand out in a fusion; the value that everybody uses."""


@dataclass(slots=True)
class MiningTally:
    """What became of the candidates."""

    groups: int = 0
    without: int = 0
    """Pairs that no negative was left for."""
    negatives: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Corpus:
    """The passages of one source, ready to be searched both ways."""

    rows: Mapping[tuple[str, str], int]
    texts: Sequence[str]
    vectors: Floats
    lexicon: Lexicon


@dataclass(frozen=True, slots=True)
class Seen:
    """A query's view of a corpus."""

    pair: Pair
    scores: Floats
    shares: Floats
    answers: frozenset[int]
    positive: int


def mine_file(corpus: Path, pairs: Path, output: Path, settings: MiningSettings, watch: Watch) -> MiningTally:
    """Mines negatives for a file of pairs and writes a group a line."""
    machine = Machine.find(settings.device, settings.threads)
    folder = locate(settings.encoder, "encoder", ModelOptions())
    check_folder(settings.encoder, folder, "encoder")
    plan = Plan.of("mine", [corpus, pairs], {settings.encoder: hash_folder(folder, {})}, settings)
    run = Run(output, plan)
    every, wanted = read_pairs(pairs), caps(settings.take)
    watch.say(described(every, "pairs"))
    encoder = prompted(machine.open_frozen(folder), settings.encoder, folder, asked_prompts(settings))
    encoder.max_seq_length = min(settings.tokens, encoder.max_seq_length or settings.tokens)
    vectors = VectorFiles(encoder, run.folder / "vectors", watch)
    mining = Mining(vectors, settings, watch)
    extra, chosen = read_passages(corpus), sample(every, wanted, settings.seed)
    run.finish(lambda file: _write(mining.mine(chosen, every, extra), file))
    return mining.tally


class Mining:
    """Mines, and keeps account of it."""

    def __init__(self, vectors: VectorFiles, settings: MiningSettings, watch: Watch) -> None:
        self._vectors = vectors
        self._settings = settings
        self._watch = watch
        self.tally = MiningTally()

    def mine(
        self, sampled: Mapping[str, Sequence[Pair]], every: Sequence[Pair], extra: Iterable[Passage]
    ) -> Iterator[Group]:
        """One group for each sampled pair that has negatives, source by source."""
        pool: dict[str, dict[tuple[str, str], Passage]] = defaultdict(dict)
        for passage in [*(pair.passage for pair in every), *_owned(extra, sampled)]:
            pool[passage.source].setdefault(passage.key, passage)
        for source, pairs in sampled.items():
            passages = self._around(pairs, pool[source].values())
            corpus = self._corpus(source, passages, titled=titles_tell_nothing(pairs))
            yield from self._groups(source, pairs, _answer_rows(every, corpus), corpus)

    def _around(self, pairs: Sequence[Pair], passages: Iterable[Passage]) -> list[Passage]:
        kept = {pair.passage.key: pair.passage for pair in pairs}
        given = [given_negative(pair.source, text) for pair in pairs for text in pair.negatives]
        others = [passage for passage in passages if passage.key not in kept]
        count = min(len(others), self._settings.distractors)
        drawn = random.Random(self._settings.seed).sample(others, count)
        return list({passage.key: passage for passage in [*kept.values(), *drawn, *given]}.values())

    def _corpus(self, source: str, passages: Sequence[Passage], *, titled: bool) -> Corpus:
        texts = [passage.titled if titled else passage.text for passage in passages]
        rows = {passage.key: row for row, passage in enumerate(passages)}
        vectors = self._vectors.embed(f"{source} passages", texts, "document")
        return Corpus(rows, texts, vectors, Lexicon(texts, self._settings.language))

    def _groups(
        self, source: str, pairs: Sequence[Pair], known: Mapping[str, frozenset[int]], corpus: Corpus
    ) -> Iterator[Group]:
        draw = random.Random(self._settings.seed)
        vectors = self._vectors.embed(f"{source} queries", [pair.query for pair in pairs], "query")
        for done, (pair, vector) in enumerate(zip(pairs, vectors, strict=True), 1):
            scores, shares = corpus.vectors @ vector, corpus.lexicon.shares(pair.query)
            seen = Seen(pair, scores, shares, known[pair.query.casefold()], corpus.rows[pair.passage.key])
            group = self._group(seen, corpus, draw)
            self._count(group)
            if group:
                yield group
            self._watch.advance(f"mining {source}", done, len(pairs))

    def _group(self, seen: Seen, corpus: Corpus, draw: random.Random) -> Group | None:
        settings = self._settings
        near, alike, both = map(self._window, (seen.scores, seen.shares, _fused(seen.scores, seen.shares)))
        wrong = self._surely_wrong(seen, corpus, {*near.tolist(), *alike.tolist(), *both.tolist()})
        wrong = {row for row in wrong if corpus.texts[row] not in seen.pair.negatives}
        given = [corpus.rows[given_negative(seen.pair.source, text).key] for text in dict.fromkeys(seen.pair.negatives)]
        given = [row for row in given if row not in seen.answers]
        first = _pick(near, wrong, settings.dense, draw)
        second = _pick(alike, wrong - set(first), settings.lexical, draw)
        third = _pick(both, wrong - set(first) - set(second), settings.fused, draw)
        rows = [seen.positive, *given, *first, *second, *third]
        if len(rows) == 1:
            return None
        dense, lexical = ([round(float(numbers[row]), 5) for row in rows] for numbers in (seen.scores, seen.shares))
        return Group(seen.pair.source, seen.pair.query, [corpus.texts[row] for row in rows], dense, lexical)

    def _window(self, scores: Floats) -> Rows:
        skipped = self._settings.skip_first
        return np.argsort(-scores)[skipped : skipped + self._settings.window]

    def _surely_wrong(self, seen: Seen, corpus: Corpus, candidates: set[int]) -> set[int]:
        """Rows that neither answer the query, nor outscore the answer by the margin, nor say the same as it."""
        likeness = corpus.vectors @ corpus.vectors[seen.positive]
        outscoring = seen.scores > seen.scores[seen.positive] + self._settings.margin
        twins = likeness >= self._settings.twin
        others = candidates - seen.answers
        self.tally.refused["answers"] += len(candidates) - len(others) - (seen.positive in candidates)
        self.tally.refused["margin"] += sum(bool(outscoring[row]) for row in others)
        self.tally.refused["twin"] += sum(bool(twins[row] and not outscoring[row]) for row in others)
        return {row for row in others if not outscoring[row] and not twins[row]}

    def _count(self, group: Group | None) -> None:
        self.tally.groups += group is not None
        self.tally.without += group is None
        self.tally.negatives += len(group.passages) - 1 if group else 0


def _owned(passages: Iterable[Passage], sources: Iterable[str]) -> Iterator[Passage]:
    """A passage that names no source is in every source's pool."""
    owners = list(sources)
    for passage in passages:
        yield from [passage] if passage.source else (replace(passage, source=source) for source in owners)


def _answer_rows(pairs: Iterable[Pair], corpus: Corpus) -> dict[str, frozenset[int]]:
    """For each query the rows of its answers, and of passages with the very same text."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(corpus.texts):
        rows_of[text].append(row)
    return {
        query: frozenset(row for key in keys if key in corpus.rows for row in rows_of[corpus.texts[corpus.rows[key]]])
        for query, keys in answers(pairs).items()
    }


def _fused(scores: Floats, shares: Floats) -> Floats:
    """Reciprocal rank fusion; a text without a word of the query has no rank by BM25."""
    near, alike = (1 / (FUSION + 1 + np.argsort(np.argsort(-each))) for each in (scores, shares))
    return (near + np.where(shares > 0, alike, 0)).astype(np.float32)


def _pick(ranked: Rows, allowed: set[int], count: int, draw: random.Random) -> list[int]:
    candidates = [int(row) for row in ranked if int(row) in allowed]
    return draw.sample(candidates, min(count, len(candidates)))


def _write(groups: Iterable[Group], file: Path) -> None:
    with file.open("x", encoding="utf-8") as lines:
        lines.writelines(group.line for group in groups)
