"""What feedback teaches: judgements in BEIR's layout, pairs to train with, and the passages that belong to them.

A judgement is the median of what was said of a document for a query, the lower one of two. Clicks count only where they
are asked for, and nobody judged. Nothing is held in memory but a page of queries, or of documents.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import apsw
import numpy as np
import orjson

from app.errors import NotFound, Unavailable
from app.service.shelf import Shelf
from app.stores import collections, spans
from app.stores import feedback as rows
from app.stores.feedback import Given, Span
from app.stores.spans import Text
from app.stores.sqlite import Database

QUERIES, DOCUMENTS = 100, 32
"""Read at once."""

MOST_NEGATIVES = 16
"""Of a pair: a query that many documents were shown for would fill a batch by itself."""

QRELS = "query-id\tcorpus-id\tscore\n"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which feedback counts."""

    clicks: int = 0
    """So many clicks make a document relevant that nobody judged; 0: none do."""
    current: bool = False
    """Whether a document's text must still be the one that was judged."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all that was said of a document for a query comes to."""

    query: str
    document: str
    grade: int
    is_wrong: bool
    """Everybody said that it is not relevant."""
    span: Span | None


class Lessons:
    """Reads them out of the truth, page by page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def corpus(self, shelf: Shelf) -> AsyncIterator[bytes]:
        async for page in self._documents(shelf):
            yield _lines({"_id": each.document, "title": each.title, "text": each.text} for each in page)

    async def passages(self, shelf: Shelf) -> AsyncIterator[bytes]:
        """Every chunk by itself, as pairs name them."""
        async for page in self._documents(shelf):
            yield _lines(
                {"_id": each.name(span), "title": each.title, "text": each.part(span), "source": shelf.collection.name}
                for each in page
                for span in each.chunks.values()
            )

    async def queries(self, shelf: Shelf, choice: Choice) -> AsyncIterator[bytes]:
        async for page in self._judgements(shelf, choice):
            yield _lines(
                {"_id": query_id(query), "text": query} for query in dict.fromkeys(each.query for each in page)
            )

    async def qrels(self, shelf: Shelf, choice: Choice) -> AsyncIterator[bytes]:
        yield QRELS.encode()
        async for page in self._judgements(shelf, choice):
            yield "".join(f"{query_id(each.query)}\t{each.document}\t{each.grade}\n" for each in page).encode()

    async def pairs(self, shelf: Shelf, choice: Choice) -> AsyncIterator[bytes]:
        """A query, a passage that answers it, and what users were shown and said is wrong."""
        async for page in self._judgements(shelf, choice):
            for query, judged in groupby(page, lambda each: each.query):
                held = {each.document: each for each in judged}
                reading = partial(spans.of, collection=shelf.collection.number, documents=held)
                texts = await self._database.read(reading)
                yield await asyncio.to_thread(_pairs, shelf, query, [(held[text.document], text) for text in texts])

    async def _judgements(self, shelf: Shelf, choice: Choice) -> AsyncIterator[list[Judgement]]:
        number, after = shelf.collection.number, ""

        def read(db: apsw.Connection) -> tuple[list[str], list[Given]]:
            _check_exists(db, shelf)
            if collections.follows(db, number):  # whoever has its place has its feedback
                raise Unavailable("The collection was switched to other models meanwhile. Ask again.")
            queries = rows.queries(db, number, after, QUERIES)
            return queries, rows.of_queries(db, number, queries)

        while (found := await self._database.read(read))[0]:
            queries, given = found
            after = queries[-1]
            yield judgements(given, choice)

    async def _documents(self, shelf: Shelf) -> AsyncIterator[list[Text]]:
        after = ""

        def read(db: apsw.Connection) -> list[Text]:
            _check_exists(db, shelf)
            return spans.page(db, shelf.collection.number, after, DOCUMENTS)

        while page := await self._database.read(read):
            after = page[-1].document
            yield page


def _check_exists(db: apsw.Connection, shelf: Shelf) -> None:
    """What breaks off in the middle is no export; without this it would look like one."""
    if not collections.exists(db, shelf.collection.number):
        raise NotFound(f"Collection '{shelf.collection.name}' was dropped meanwhile.")


def query_id(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def judgements(given: Sequence[Given], choice: Choice) -> list[Judgement]:
    """One for each query and document that anything counts of."""
    counting = (each for each in given if each.is_current or not choice.current)
    found = (
        _judgement(query, document, list(said), choice)
        for (query, document), said in groupby(counting, lambda each: (each.query, each.document))
    )
    return [each for each in found if each]


def _judgement(query: str, document: str, said: Sequence[Given], choice: Choice) -> Judgement | None:
    grades = sorted(each.grade for each in said if each.kind == "judged")
    grade = grades[(len(grades) - 1) // 2] if grades else 1
    if not grades and (not choice.clicks or len(said) < choice.clicks):
        return None
    spans_of = [each.span for each in said if each.span and (each.grade > 0) == (grade > 0)]
    return Judgement(query, document, grade, not max(grades, default=1), spans_of[-1] if spans_of else None)


def _pairs(shelf: Shelf, query: str, judged: Sequence[tuple[Judgement, Text]]) -> bytes:
    named = [(each, text, _span(shelf, each, text)) for each, text in judged]
    wrong = [text.part(span) for each, text, span in named if each.is_wrong][:MOST_NEGATIVES]
    more = {"negatives": wrong} if wrong else {}
    return _lines(_pair(shelf, query, text, span) | more for each, text, span in named if each.grade > 0)


def _pair(shelf: Shelf, query: str, text: Text, span: Span) -> Row:
    return {
        "query": query,
        "positive": text.part(span),
        "positive_id": text.name(span),
        "title": text.title,
        "source": shelf.collection.name,
    }


def _span(shelf: Shelf, judged: Judgement, text: Text) -> Span:
    """The chunk that was named, or the one with the weightiest words of the query."""
    if judged.span in text.chunks.values():
        assert judged.span is not None
        return judged.span
    chunks = np.fromiter(text.chunks, np.int64, len(text.chunks))
    best = int(np.argmax(shelf.indexes.lexical.index.shares(judged.query, chunks)))
    return text.chunks[int(chunks[best])]


def _lines(found: Iterable[Row]) -> bytes:
    return b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in found)
