"""Questions without answers, as people have them: a text file, JSON lines, or a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from app.errors import WinnowError
from app.quality import sheets
from app.quality.types import Query

TEXT = ("query", "text", "question")
ID = ("_id", "id", "query_id")

Found = Iterator[tuple[str, Mapping[str, Any]]]


class BadQuestions(WinnowError):
    """Questions that can't be read; the message names file and line."""


def read(path: Path) -> tuple[Query, ...]:
    """All questions, the same text once. One without an id is named by its text, so that the order does not matter."""
    readers: Mapping[str, Callable[[Path], Found]] = {".txt": _texts, ".jsonl": _objects, ".csv": _cells}
    if path.suffix.lower() not in readers:
        raise BadQuestions(f"{path}: questions are read from .txt (one a line), .jsonl or .csv: name such a file.")
    found: dict[str, Query] = {}
    for place, fields in readers[path.suffix.lower()](path):
        query = _query(f"{path}, {place}", fields)
        if found.setdefault(query.id, query) != query:
            raise BadQuestions(f"{path}, {place}: the id {query.id!r} belongs to another question: give it its own.")
    if not found:
        raise BadQuestions(f"{path} holds no questions.")
    return tuple(found.values())


def _texts(path: Path) -> Found:
    for number, line in _lines(path):
        yield f"line {number}", {"query": line}


def _objects(path: Path) -> Found:
    for number, line in _lines(path):
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadQuestions(f"{path}, line {number}: is not JSON: {error}.") from error
        if not isinstance(fields, dict):
            raise BadQuestions(f"{path}, line {number}: is not a JSON object.")
        yield f"line {number}", fields


def _cells(path: Path) -> Found:
    for number, cells in sheets.read(path, ()):
        yield f"row {number}", cells


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_bytes().decode(sheets.ENCODING)
    except UnicodeDecodeError as error:
        raise BadQuestions(f"{path} is not UTF-8 (byte {error.start}): convert it first.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _query(place: str, fields: Mapping[str, Any]) -> Query:
    text = next((fields[name] for name in TEXT if fields.get(name)), None)
    if not isinstance(text, str) or not text.strip():
        raise BadQuestions(f"{place}: has no question: write it in a field or column 'query'.")
    name = next((fields[name] for name in ID if fields.get(name) not in (None, "")), None)
    return Query(str(name) if name is not None else _name(text.strip()), text.strip())


def _name(text: str) -> str:
    return f"q-{blake2b(text.encode(), digest_size=5).hexdigest()}"
