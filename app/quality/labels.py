"""The file that a person labels: one row for each question and document, as CSV for spreadsheets or as JSON lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.errors import WinnowError
from app.quality import sheets
from app.quality.types import Query

SHEET, LINES = ".csv", ".jsonl"
COLUMNS = ("relevance", "query", "title", "text", "query_id", "document_id")
IDS = ("query_id", "document_id")
NEEDED = ("relevance", "query", *IDS)

GRADES = {0: "does not help", 1: "is about it", 2: "answers in part", 3: "answers it"}
"""What a label says of a document."""

NAMED = 20
"""Bad rows that are named; more are counted."""

Key = tuple[str, str]


class BadLabels(WinnowError):
    """Labels that can't be used; the message names every bad row."""


@dataclass(frozen=True, slots=True)
class Row:
    """A question, and a document that may answer it."""

    query: Query
    document: str
    title: str
    text: str
    """As much of the document as a person has to read."""
    relevance: int | None = None

    @property
    def key(self) -> Key:
        return self.query.id, self.document


def check_name(path: Path) -> None:
    if path.suffix.lower() not in (SHEET, LINES):
        raise BadLabels(f"{path}: labels are kept as {SHEET} or {LINES}: name such a file.")


def read(path: Path) -> list[Row]:
    """All rows, each pair once; a row that can't be right is named by its number."""
    check_name(path)
    rows, faults = dict[Key, Row](), list[str]()
    for place, fields in _rows(path):
        fault = _fault(fields)
        if not fault:
            row = _row(fields)
            fault = _contradiction(rows.get(row.key), row)
            rows[row.key] = row if row.relevance is not None else rows.get(row.key, row)
        if fault:
            faults.append(f"{path}, {place}: {fault}")
    if faults:
        more = [f"… and {len(faults) - NAMED:,} more"] if len(faults) > NAMED else []
        raise BadLabels("\n".join([*faults[:NAMED], *more]))
    return list(rows.values())


def write(path: Path, rows: Sequence[Row]) -> None:
    """All rows, in place of what was there; a crash leaves the old file or the new one."""
    beside = path.with_name(f"{path.name}.new")
    if _is_sheet(path):
        sheets.write(beside, COLUMNS, (_cells(row) for row in rows))
    else:
        beside.write_bytes(b"".join(orjson.dumps(as_object(row)) + b"\n" for row in rows))
    os.replace(beside, path)


def as_object(row: Row) -> dict[str, Any]:
    """The row by the names of its columns."""
    values = row.relevance, row.query.text, row.title, row.text, row.query.id, row.document
    return dict(zip(COLUMNS, values, strict=True))


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if _is_sheet(path):
        for number, cells in sheets.read(path, NEEDED):
            yield f"row {number}", {name: sheets.unshield(cell) for name, cell in cells.items()}
    else:
        yield from _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise BadLabels(f"{path}, line {number}: is not JSON: {error}.") from error


def _is_sheet(path: Path) -> bool:
    return path.suffix.lower() == SHEET


def _fault(fields: Any) -> str:
    """What is wrong with a row, if anything is."""
    if not isinstance(fields, Mapping):
        return "is not a JSON object."
    for name in NEEDED[1:]:
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            return f"has no {name}: it must stay as `winnow judge pool` wrote it."
    if _told(fields) not in ("", *map(str, GRADES)):
        return f"relevance is {fields['relevance']!r}: write 0, 1, 2 or 3, or leave it empty."
    return ""


def _told(fields: Mapping[str, Any]) -> str:
    grade = fields.get("relevance")
    return "" if grade is None else str(grade).strip()


def _contradiction(known: Row | None, row: Row) -> str:
    if known is None or row.relevance is None or known.relevance in (None, row.relevance):
        return ""
    return f"says {row.relevance} of a document that another row calls {known.relevance}: leave one of them."


def _row(fields: Mapping[str, Any]) -> Row:
    grade = _told(fields)
    return Row(
        query=Query(fields["query_id"], fields["query"]),
        document=fields["document_id"],
        title=str(fields.get("title") or ""),
        text=str(fields.get("text") or ""),
        relevance=int(grade) if grade else None,
    )


def _cells(row: Row) -> list[str]:
    return ["" if value is None else str(value) for value in as_object(row).values()]
