"""A folder in BEIR's layout as a dataset: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each of them also as .gz."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson

from app.errors import WinnowError
from app.quality.types import Dataset, Query
from app.types import Document

COLUMNS = 3
"""Of a judgement: query, document, grade."""

DIGITS = 6
"""Of a grade: the measures take memory for each step up to the highest."""

GRADE = re.compile(rf"[+-]?[0-9]{{1,{DIGITS}}}")

NAMED = 20
"""Characters of a score that are named."""

Grades = dict[str, dict[str, int]]


class BadDataset(WinnowError):
    """A dataset that can't be read; the message names file and line."""


def read(folder: Path, split: str = "test") -> Dataset:
    """Everything in the folder; queries that nobody found a relevant document for are left out and counted."""
    notes: Counter[str] = Counter()
    documents = _documents(_file(folder / "corpus.jsonl"), notes)
    queries = _queries(_file(folder / "queries.jsonl"))
    path = _qrels(folder, split)
    judged = _judgements(path, notes)
    _compare(path, judged, documents, queries, notes)
    chosen = {name: judged[name] for name in queries if any(grade > 0 for grade in judged.get(name, {}).values())}
    notes["judged queries have no relevant document and are left out"] = len(judged.keys() & queries) - len(chosen)
    if not chosen:
        raise BadDataset(f"{path} has no judgement above 0 for any query of {folder}: there is nothing to measure.")
    return Dataset(
        name=folder.resolve().name,
        split=split,
        documents=tuple(documents.values()),
        queries=tuple(Query(name, queries[name]) for name in chosen),
        judgements=chosen,
        notes=tuple(f"{count:,} {what}." for what, count in notes.items() if count),
    )


def unanswerable(folder: Path, split: str, *, unjudged: bool) -> list[tuple[Query, dict[str, int]]]:
    """Queries whose judgements are all 0 and, if wanted, those that no split judges, each with its grades."""
    queries, own = _queries(_file(folder / "queries.jsonl")), _judgements(_qrels(folder, split), Counter())
    judged = [own, *(_judgements(path, Counter()) for path in _all_qrels(folder))]
    wanted = own.keys() | (queries.keys() - {name for each in judged for name in each} if unjudged else set())
    answered = {name for each in judged for name, grades in each.items() if any(grades.values())}
    return [(Query(name, text), own.get(name, {})) for name, text in queries.items() if name in wanted - answered]


def sample(dataset: Dataset, amount: int, seed: int) -> Dataset:
    """So many of its queries, drawn at random: the same ones for the same seed."""
    if amount >= len(dataset.queries):
        return dataset
    drawn = set(Random(seed).sample(range(len(dataset.queries)), amount))
    kept = tuple(query for place, query in enumerate(dataset.queries) if place in drawn)
    note = f"{amount:,} of {len(dataset.queries):,} queries were drawn at random (seed {seed})."
    judgements = {query.id: dataset.judgements[query.id] for query in kept}
    return replace(dataset, queries=kept, judgements=judgements, notes=(*dataset.notes, note))


def _file(path: Path) -> Path:
    for found in (path, path.with_name(f"{path.name}.gz")):
        if found.is_file():
            return found
    raise BadDataset(
        f"{path.parent} has no {path.name} (nor {path.name}.gz): name a folder in BEIR's layout, with corpus.jsonl, "
        "queries.jsonl and qrels/test.tsv."
    )


def _qrels(folder: Path, split: str) -> Path:
    for found in (folder / "qrels" / f"{split}.tsv", folder / "qrels" / f"{split}.tsv.gz"):
        if found.is_file():
            return found
    splits = sorted({path.name.split(".tsv")[0] for path in _all_qrels(folder)})
    there = f"there are: {', '.join(splits)}. Choose one with --split" if splits else "it has no qrels/*.tsv at all"
    raise BadDataset(f"{folder} has no judgements for the split '{split}'; {there}.")


def _all_qrels(folder: Path) -> list[Path]:
    """Of every split; what an editor or an interrupted command left beside them is none."""
    return [path for path in (folder / "qrels").glob("[!.]*") if path.name.endswith((".tsv", ".tsv.gz"))]


def _documents(path: Path, notes: Counter[str]) -> dict[str, Document]:
    """By id; one without text is its title, and one without either is none."""
    found: dict[str, Document] = {}
    for place, row in _rows(path):
        name, text, title = _id(place, row), _string(place, row, "text"), _string(place, row, "title", needed=False)
        if name in found:
            raise BadDataset(f"{place}: the id {name!r} has been there before: every document needs its own.")
        if text.strip():
            found[name] = Document(name, text, title)
        elif title.strip():
            found[name] = Document(name, title)
        else:
            notes["documents have no text and are left out"] += 1
    if not found:
        raise BadDataset(f"{path} holds no documents.")
    return found


def _queries(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for place, row in _rows(path):
        name, text = _id(place, row), _string(place, row, "text")
        if name in found:
            raise BadDataset(f"{place}: the id {name!r} has been there before: every query needs its own.")
        if not text.strip():
            raise BadDataset(f"{place}: the query {name!r} is empty: remove it, or write it.")
        found[name] = text
    return found


def _judgements(path: Path, notes: Counter[str]) -> Grades:
    judged: Grades = {}
    for place, (number, line) in enumerate(_lines(path)):
        cells = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if place == 0 and not any(map(_is_number, cells)):
            continue  # the header
        query, document, grade = _judgement(f"{path}:{number}", cells)
        notes["judgements are below 0 and count as 0"] += grade < 0
        notes["judgements are there twice; the higher one counts"] += document in judged.get(query, {})
        grades = judged.setdefault(query, {})
        grades[document] = max(grade, 0, grades.get(document, 0))
    return judged


def _judgement(place: str, cells: list[str]) -> tuple[str, str, int]:
    if len(cells) != COLUMNS:
        raise BadDataset(
            f"{place}: has {len(cells)} columns, not {COLUMNS}: query-id, corpus-id and score, with tabs between them."
        )
    if not GRADE.fullmatch(grade := cells[2].strip()):
        told = grade if len(grade) <= NAMED else f"{grade[:NAMED]}…"
        raise BadDataset(f"{place}: the score {told!r} is not a whole number of at most {DIGITS} digits.")
    return cells[0].strip(), cells[1].strip(), int(grade)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _compare(
    path: Path, judged: Grades, documents: Mapping[str, object], queries: Mapping[str, object], notes: Counter[str]
) -> None:
    """Count what the judgements name and the files lack."""
    named = [document for grades in judged.values() for document, grade in grades.items() if grade > 0]
    missing = sum(document not in documents for document in named)
    if named and missing == len(named):
        raise BadDataset(f"No judgement in {path} names a document of the corpus: do the two belong together?")
    notes["relevant documents are not in the corpus and count as not found"] = missing
    notes["queries are judged and not in the queries file; they are left out"] = len(judged.keys() - queries.keys())


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path):
        place = f"{path}:{number}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadDataset(f"{place}: is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise BadDataset(f"{place}: is not a JSON object.")
        yield place, row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; blank ones are passed over, as is a mark of the byte order."""
    opens = gzip.open if path.suffix == ".gz" else open
    try:
        with opens(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                own = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if own.strip():
                    yield number, own
    except (OSError, EOFError, zlib.error) as error:
        raise BadDataset(f"{path} can't be read: {error}.") from error


def _id(place: str, row: Mapping[str, Any]) -> str:
    name = row["_id"] if row.get("_id") is not None else row.get("id")
    if type(name) not in (str, int) or name == "":
        raise BadDataset(f"{place}: has no _id: every line needs one, a string.")
    return str(name)


def _string(place: str, row: Mapping[str, Any], name: str, *, needed: bool = True) -> str:
    value = row.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise BadDataset(f"{place}: {name} is {'missing' if value is None else 'not a string'}.")
    return value
