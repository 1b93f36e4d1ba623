"""From questions without labels to a dataset: what several ways of searching find is pooled, and a person labels it.

A document that none of them finds is shown to nobody and counts as not relevant. The more the ways differ, the less
that matters.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from random import Random
from typing import Any, Literal

import orjson

from app.quality.labels import BadLabels, Row
from app.quality.types import Query, Run
from app.types import Document

EXCERPT = 1500
"""Characters of a document that a person is asked to read."""

SECONDS = 15
"""What a label takes somebody who knows the field."""

WORD = re.compile(r"\w{3,}")
START = re.compile(r"(?<=[.!?\n])\s+(?=\S)")

Pool = Mapping[str, set[str]]
"""Of each question's id the documents to label."""

Unlabelled = Literal["skip", "zero", "refuse"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one question is."""

    query: Query
    rows: int
    labelled: int
    relevant: int


def pool(runs: Iterable[Run], depth: int) -> Pool:
    """What any of the runs has among its first."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for query, scores in run.scores.items():
            found[query].update(_best(scores, depth))
    return found


def rows(queries: Iterable[Query], documents: Mapping[str, Document], found: Pool) -> list[Row]:
    """A row for each document of a question."""
    return [_row(query, documents[name]) for query in queries for name in sorted(found[query.id])]


def merge(old: Sequence[Row], new: Sequence[Row], seed: int) -> list[Row]:
    """Old rows with their labels and those that are new, by question. What waits for a label stands in an order that
    says nothing of who found it, and when."""
    _check_texts(old, new)
    known, now = {row.key for row in old}, {row.key: row for row in new}
    held = (row if row.relevance is not None else now.get(row.key, row) for row in old)
    asked = _by_question([*held, *(row for row in new if row.key not in known)])
    return [row for name, held in asked.items() for row in _in_order(held, Random(f"{seed} {name}"))]


def changed(labelled: Iterable[Row], documents: Mapping[str, Document]) -> list[Row]:
    """Rows whose label is about another text than the document has by now. A spreadsheet may have broken lines anew."""
    return [
        row
        for row in labelled
        if row.relevance is not None
        and row.text.strip()
        and (document := documents.get(row.document))
        and row.text.split() != excerpt(document.text, row.query.text).split()
    ]


def check_ids(names: Iterable[str]) -> None:
    """Refuse those that would not come back as they are."""
    for name in names:
        if name != name.strip() or set(name) & set("\t\r\n"):
            raise BadLabels(f"The id {name!r} has spaces around it or breaks a line, which BEIR's layout can't hold.")


def progress(every: Iterable[Row]) -> list[Progress]:
    return [_progress(held) for held in _by_question(every).values()]


def save(folder: Path, documents: Iterable[Document], every: Sequence[Row], unlabelled: Unlabelled) -> None:
    """A dataset in BEIR's layout, with the labels for judgements."""
    queries = {row.query.id: {"_id": row.query.id, "text": row.query.text} for row in every}
    held = ({"_id": each.id, "title": each.title, "text": each.text} for each in documents)
    judged = [(*row.key, row.relevance or 0) for row in every if row.relevance is not None or unlabelled == "zero"]
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _save_lines(folder / "corpus.jsonl", held)
    _save_lines(folder / "queries.jsonl", queries.values())
    table = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, cells)) for cells in judged)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(table) + "\n", "utf-8", newline="\n")


def check(every: Sequence[Row], known: Iterable[str], unlabelled: Unlabelled) -> None:
    """Refuse labels that would not make a dataset."""
    held = set(known)
    for row in every:
        if row.document not in held:
            raise BadLabels(
                f"The document {row.document!r} of the labels is not in the corpus: give the corpus that was pooled. "
                "If it is, did a spreadsheet change the id?"
            )
        check_ids(row.key)
    waiting = sum(row.relevance is None for row in every)
    if waiting and unlabelled == "refuse":
        raise BadLabels(f"{waiting:,} of {len(every):,} rows have no label: label them, or choose skip or zero.")
    if not any(row.relevance for row in every):
        raise BadLabels("No row has a label above 0: there is nothing to measure searches by.")


def excerpt(text: str, query: str) -> str:
    """The text or, where it is long, the middle one of the parts that have the most of the question's words."""
    if len(text) <= EXCERPT:
        return text
    words = {word.casefold() for word in WORD.findall(query)}
    starts = [0, *(each.end() for each in START.finditer(text) if each.end() < len(text) - EXCERPT // 2)]
    parts = (text[start : start + EXCERPT].casefold() for start in starts)
    held = [sum(word in part for word in words) for part in parts]
    most = max(held)
    fullest = [start for start, amount in zip(starts, held, strict=True) if amount == most]
    best = fullest[len(fullest) // 2]
    return f"{'… ' if best else ''}{text[best : best + EXCERPT]}{' …' if best + EXCERPT < len(text) else ''}"


def effort(amount: int) -> str:
    """Rows, and the time that they take."""
    if not amount:
        return "0 rows to label"
    minutes = max(round(amount * SECONDS / 60), 1)
    hours, rest = divmod(minutes, 60)
    time = f"{hours} h {rest} min" if hours else f"{rest} min"
    return f"{amount:,} rows to label, about {time} at {SECONDS} seconds each"


def _best(scores: Mapping[str, float], depth: int) -> list[str]:
    """As the measures rank: of equal scores the last id comes first."""
    return nlargest(depth, scores, key=lambda name: (scores[name], name))


def _by_question(every: Iterable[Row]) -> dict[str, list[Row]]:
    asked: dict[str, list[Row]] = defaultdict(list)
    for row in every:
        asked[row.query.id].append(row)
    return asked


def _check_texts(old: Iterable[Row], new: Iterable[Row]) -> None:
    """A label is about a text: it must not pass to another one that has the same id."""
    texts = {row.query.id: row.query.text for row in old}
    for row in new:
        if (text := texts.get(row.query.id, row.query.text)) != row.query.text:
            raise BadLabels(
                f"The question {row.query.id!r} was {text!r} when it was pooled before and is {row.query.text!r} now: "
                "give the new one an id of its own."
            )


def _row(query: Query, document: Document) -> Row:
    return Row(query, document.id, document.title, excerpt(document.text, query.text))


def _in_order(held: Sequence[Row], draw: Random) -> Iterator[Row]:
    """What has a label stays where it stands; the others follow at random."""
    waiting = sorted((row for row in held if row.relevance is None), key=lambda row: row.document)
    draw.shuffle(waiting)
    yield from (row for row in held if row.relevance is not None)
    yield from waiting


def _progress(held: Sequence[Row]) -> Progress:
    grades = [row.relevance for row in held if row.relevance is not None]
    return Progress(held[0].query, len(held), len(grades), sum(grade > 0 for grade in grades))


def _save_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    with path.open("wb") as file:
        file.writelines(orjson.dumps(each) + b"\n" for each in objects)
