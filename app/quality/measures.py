"""Measures of runs, by trec_eval's own code through ir-measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from app.quality.types import Judgements, Query, Run

CUTS = (1, 5, 10, 20, 50, 100)
NDCG, MRR, MAP = "nDCG@10", "MRR@10", "MAP"
NAMES = (NDCG, MRR, MAP, *(f"recall@{cut}" for cut in CUTS), *(f"precision@{cut}" for cut in CUTS))

DEPTH = 100
"""Documents of a run for each query: MAP is over so many, and nothing looks further."""

Values = NDArray[np.float64]
"""A row for each query, a column for each measure."""


def measure(run: Run, judgements: Judgements, queries: Sequence[Query], names: Sequence[str] = NAMES) -> Values:
    """What each query's answer is worth; a query without an answer is worth nothing."""
    import ir_measures

    wanted = {name: _measure(ir_measures, name) for name in names}
    rows = {query.id: row for row, query in enumerate(queries)}
    columns = {measure: column for column, measure in enumerate(wanted.values())}
    values = np.zeros((len(rows), len(names)))
    evaluator = ir_measures.pytrec_eval.evaluator(list(wanted.values()), _plain(judgements))
    for found in evaluator.iter_calc(_plain(run.scores)):
        values[rows[found.query_id], columns[found.measure]] = found.value
    if MRR in names:  # trec_eval has no cut for it: the first relevant document is among the first ten, or it isn't
        reciprocal = values[:, names.index(MRR)]
        reciprocal[reciprocal < 1 / 10 - 1e-9] = 0.0
    return values


def save(run: Run, folder: Path) -> None:
    """A run file as trec_eval reads it."""
    tag = run.arm.replace("+", "-")
    lines = (
        f"{_word(query)} Q0 {_word(document)} {rank} {score!r} {tag}\n"
        for query, scores in run.scores.items()
        for rank, (document, score) in enumerate(sorted(scores.items(), key=_trec_order, reverse=True), 1)
    )
    (folder / f"{tag}.run").write_text("".join(lines))


def save_judgements(judgements: Judgements, folder: Path) -> None:
    lines = (
        f"{_word(query)} 0 {_word(document)} {grade}\n"
        for query, grades in judgements.items()
        for document, grade in grades.items()
    )
    (folder / "qrels.txt").write_text("".join(lines))


def _measure(ir_measures: Any, name: str) -> Any:
    whole = {NDCG: ir_measures.nDCG @ 10, MRR: ir_measures.RR, MAP: ir_measures.AP}
    if name in whole:
        return whole[name]
    kind, cut = name.split("@")
    return {"recall": ir_measures.R, "precision": ir_measures.P}[kind] @ int(cut)


def _plain(nested: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {outer: dict(inner) for outer, inner in nested.items()}


def _trec_order(entry: tuple[str, float]) -> tuple[float, str]:
    """As trec_eval ranks: by score and, where that is equal, by the document's id, the last one first."""
    return entry[1], entry[0]


def _word(name: str) -> str:
    """An id as one word: blanks part the columns of these files."""
    return re.sub(r"\s", lambda blank: quote(blank[0]), name)
