"""Finds passages that look like answers and are not: the negatives a model learns most from."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from models.training.pairs import Pair, Passage, open_text

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """How hard, how many and how surely wrong the negatives are."""

    dense: int = 4
    lexical: int = 2
    window: int = 30
    margin: float = 0.05
    twin: float = 0.95
    distractors: int = 4000
    tokens: int = 256
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Group:
    """A query with its answer first, its negatives behind, and each one's cosine."""

    source: str
    query: str
    passages: list[str]
    dense: list[float]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The passages of one source, ready to be searched both ways."""

    rows: Mapping[tuple[str, str], int]
    texts: Sequence[str]
    vectors: Floats
    lexical: bm25s.BM25


def load_encoder(folder: Path, settings: MiningSettings) -> SentenceTransformer:
    """An encoder in the half precision that embeds a corpus several times faster."""
    encoder = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    encoder.max_seq_length = settings.tokens
    return encoder


def mine(
    sampled: Mapping[str, Sequence[Pair]],
    every: Sequence[Pair],
    extra: Iterable[Passage],
    encoder: SentenceTransformer,
    settings: MiningSettings,
) -> Iterator[Group]:
    """One group for each sampled pair that has negatives, source by source."""
    pool: dict[str, dict[tuple[str, str], Passage]] = defaultdict(dict)
    for passage in [*(pair.passage for pair in every), *extra]:
        pool[passage.source].setdefault(passage.key, passage)
    for source, pairs in sampled.items():
        passages = _around(pairs, pool[source].values(), settings)
        corpus = _corpus(passages, _titles_tell_nothing(pairs), encoder)
        yield from _groups(pairs, _answers(every, corpus), corpus, encoder, settings)


def write_groups(groups: Iterable[Group], output: Path) -> int:
    """Writes a group a line, for the reranker's training, and says how many there are."""
    written = 0
    with output.open("x", encoding="utf-8") as lines:
        for group in groups:
            lines.write(json.dumps(asdict(group), ensure_ascii=False) + "\n")
            written += 1
    return written


def read_groups(path: Path) -> list[Group]:
    """The groups of a mined file."""
    with open_text(path) as lines:
        return [Group(**json.loads(line)) for line in lines]


def _around(pairs: Iterable[Pair], passages: Iterable[Passage], settings: MiningSettings) -> list[Passage]:
    kept = {pair.passage.key: pair.passage for pair in pairs}
    others = [passage for passage in passages if passage.key not in kept]
    count = min(len(others), settings.distractors)
    return [*kept.values(), *random.Random(settings.seed).sample(others, count)]


def _titles_tell_nothing(pairs: Sequence[Pair]) -> bool:
    # Where a query repeats the title (headings, paper titles), passages under titles would give the answer away.
    return 2 * sum(pair.title_in_query for pair in pairs) < len(pairs)


def _corpus(passages: Sequence[Passage], titled: bool, encoder: SentenceTransformer) -> Corpus:
    texts = [passage.titled if titled else passage.text for passage in passages]
    lexical = bm25s.BM25()
    lexical.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    rows = {passage.key: row for row, passage in enumerate(passages)}
    return Corpus(rows, texts, _embed(encoder, texts), lexical)


def _embed(encoder: SentenceTransformer, texts: Sequence[str]) -> Floats:
    vectors: Floats = encoder.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    return vectors.astype(np.float32)


def _groups(
    pairs: Sequence[Pair],
    answers: Mapping[str, set[int]],
    corpus: Corpus,
    encoder: SentenceTransformer,
    settings: MiningSettings,
) -> Iterator[Group]:
    draw = random.Random(settings.seed)
    queries = [pair.query for pair in pairs]
    window = min(settings.window, len(corpus.texts))
    tokens = bm25s.tokenize(queries, show_progress=False)
    lexical, _ = corpus.lexical.retrieve(tokens, k=window, show_progress=False)
    for pair, vector, near in zip(pairs, _embed(encoder, queries), lexical, strict=True):
        scores = corpus.vectors @ vector
        positive = corpus.rows[pair.passage.key]
        wrong = _surely_wrong(positive, answers[pair.query.casefold()], scores, corpus, settings)
        first = _pick(np.argsort(-scores)[:window], wrong, settings.dense, draw)
        second = _pick(near, wrong - set(first), settings.lexical, draw)
        if chosen := [*first, *second]:
            rows = [positive, *chosen]
            dense = [round(float(scores[row]), 5) for row in rows]
            yield Group(pair.source, pair.query, [corpus.texts[row] for row in rows], dense)


def _answers(pairs: Iterable[Pair], corpus: Corpus) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for pair in pairs:
        if (row := corpus.rows.get(pair.passage.key)) is not None:
            found[pair.query.casefold()].add(row)
    return found


def _surely_wrong(
    positive: int, answers: set[int], scores: Floats, corpus: Corpus, settings: MiningSettings
) -> set[int]:
    """Rows that neither outscore the answer by the margin nor say the same as it."""
    likeness = corpus.vectors @ corpus.vectors[positive]
    allowed = (scores <= scores[positive] + settings.margin) & (likeness < settings.twin)
    return set(np.flatnonzero(allowed).tolist()) - answers


def _pick(ranked: Rows, allowed: set[int], count: int, draw: random.Random) -> list[int]:
    candidates = [int(row) for row in ranked if int(row) in allowed]
    return draw.sample(candidates, min(count, len(candidates)))
