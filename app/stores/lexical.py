"""The chunks whose words weigh most, by BM25 (tantivy)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, log1p
from pathlib import Path
from threading import Lock

import numpy as np
from tantivy import Document, Index, IndexWriter, Occur, Query, Schema, SchemaBuilder, Searcher, SearchResult

from app.stores.lexical_files import sweep
from app.stores.vectors import contains
from app.types import Candidates, ChunkIds, Wording
from models.types import Scores
from models.words import Language, analyzer, query_words, respelled, text_words

K1 = 1.2
"""Tantivy's own. A word that a text is full of weighs its idf times this and one."""

HEAP_BYTES = 15_000_000
"""The least that a writer takes: it is used up only by a rebuild, which then writes more than one segment."""

FEW = 2000
"""So few allowed chunks are named to the index; it takes a microsecond or two for each."""

OVERFETCH = 1.5
WIDEN = 4

CODE = re.compile(r"(?:code:|os error) (\d+)")

EMPTY = Candidates(np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class _Aim:
    """What to look for, and what a text would score that is made of nothing else, without end."""

    query: Query
    bound: float


class TantivyIndex:
    """An index of words: in a folder, or in memory where none is given.

    Scores are shares: BM25 over the most that the query can score, 0 to 1. A word that no chunk has counts as well,
    since what is missing of a query makes the rest of it say less.
    """

    def __init__(self, language: Language, folder: Path | None = None, sequence: int = 0) -> None:
        self._language = language
        self._folder = folder
        self._schema = _schema()
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        with _system_errors():
            self._index = Index(self._schema, path=str(folder) if folder else None)
        self._index.register_tokenizer("words", analyzer(language))
        self._index.config_reader("manual")
        self._writer: IndexWriter | None = None
        self._writing = Lock()
        self._searcher: Searcher = self._index.searcher()
        self._sequence = sequence

    @property
    def sequence(self) -> int:
        return self._sequence

    def __len__(self) -> int:
        return self._searcher.num_docs

    @property
    def chunks(self) -> ChunkIds:
        """All living ones; it takes a second for a million."""
        searcher = self._searcher
        every = searcher.search(Query.all_query(), max(searcher.num_docs, 1), count=False)
        return np.array(_chunks(searcher, every), np.int64)

    def apply(self, changes: Sequence[Wording]) -> None:
        self.fill([changes])

    def fill(self, blocks: Iterable[Sequence[Wording]]) -> None:
        """All that is in the blocks, seen at once; a chunk is in no more than one of them."""
        with self._writing, _system_errors(), self._whole_or_not_at_all():
            sequence, moved = self._sequence, False
            for block in blocks:
                moved |= self._write(block)
                sequence = max([sequence, *(change.sequence for change in block)])
            if moved and self._writer:
                self._writer.commit()
                self._reload()
            self._sequence = sequence

    def search(self, query: str, k: int, allowed: ChunkIds | None = None) -> Candidates:
        searcher = self._searcher
        if allowed is None:
            return _found(searcher, aim, k) if (aim := self._aim(searcher, query)) else EMPTY
        if len(allowed) <= FEW:
            return self._among(searcher, query, k, allowed)
        return self._sifted(searcher, query, k, allowed)

    def shares(self, query: str, chunks: ChunkIds) -> Scores:
        """What search would say of these chunks, in their order; nothing of the query is 0."""
        found = self._among(self._searcher, query, len(chunks), chunks)
        shares = dict(zip(found.chunks.tolist(), found.scores.tolist(), strict=True))
        return np.array([shares.get(chunk, 0.0) for chunk in chunks.tolist()], np.float32)

    def matches(self, query: str, text: str) -> list[str]:
        """The words of the query that a text has."""
        has = set(text_words(text, self._language))
        return [word for word in dict.fromkeys(query_words(query, self._language)) if word in has]

    def has_words(self, chunk: int, text: str) -> bool:
        """Whether it finds a chunk by every word of this text; .8 ms for 150 of them."""
        words = [(Occur.Must, self._word(word, 1)) for word in set(text_words(text, self._language))]
        query = Query.boolean_query([(Occur.Must, self._named([chunk])), *words])
        return bool(self._searcher.search(query, 1, count=False).hits)

    def close(self) -> None:
        """Let what is being merged come to its end."""
        with self._writing:
            if self._writer is not None:
                self._writer.wait_merging_threads()
                self._writer = None

    @contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        """A writer that failed never works again, and would commit what it holds with the next step. It is left, and
        what it has committed is seen, however far it came."""
        try:
            yield
        except BaseException:
            self._writer = None
            self._reload()
            raise

    def _reload(self) -> None:
        self._index.reload()
        self._searcher = self._index.searcher()

    def _write(self, changes: Sequence[Wording]) -> bool:
        """Says whether there is anything to commit. What a chunk says never changes: one that is held stays."""
        last = {change.chunk: change.text for change in changes}
        held = self._held(list(last))
        gone = [chunk for chunk in held if last[chunk] is None]
        new = {chunk: text for chunk, text in last.items() if text is not None and chunk not in held}
        if not gone and not new:
            return False
        if self._writer is None:
            if self._folder:
                sweep(self._folder)
            self._writer = self._index.writer(HEAP_BYTES, num_threads=1)
        if gone:
            # Not by term: that deletes nothing from a field of numbers, and does not say so.
            self._writer.delete_documents_by_query(self._named(gone))
        try:  # with no variable for the writer: an error that is kept would keep it, and so the folder's lock
            for chunk, text in new.items():
                self._writer.add_document(_document(chunk, text))
        except ValueError:  # its thread has ended by an error, which a commit would raise
            self._writer.commit()
            raise
        return True

    def _held(self, chunks: list[int]) -> set[int]:
        searcher = self._searcher
        if not chunks or not searcher.num_docs:
            return set()
        return set(_chunks(searcher, searcher.search(self._named(chunks), len(chunks), count=False)))

    def _named(self, chunks: list[int]) -> Query:
        return Query.term_set_query(self._schema, "chunk", chunks)

    def _aim(self, searcher: Searcher, query: str) -> _Aim | None:
        counted = Counter(query_words(query, self._language))
        if not counted:
            return None
        texts = searcher.doc_freq("all", "")  # those marked as deleted are still counted, as in the words' own numbers
        bound = sum(often * _idf(texts, searcher.doc_freq("text", word)) for word, often in counted.items())
        return _Aim(Query.boolean_query([(Occur.Should, self._word(*each)) for each in counted.items()]), bound)

    def _word(self, word: str, often: int) -> Query:
        query = Query.term_query(self._schema, "text", word, index_option="freq")
        return query if often == 1 else Query.boost_query(query, often)

    def _among(self, searcher: Searcher, query: str, k: int, allowed: ChunkIds) -> Candidates:
        aim = self._aim(searcher, query)
        if aim is None or not len(allowed):
            return EMPTY
        named = Query.const_score_query(self._named(allowed.tolist()), 0.0)
        return _found(searcher, _Aim(Query.boolean_query([(Occur.Must, aim.query), (Occur.Must, named)]), aim.bound), k)

    def _sifted(self, searcher: Searcher, query: str, k: int, allowed: ChunkIds) -> Candidates:
        """More than asked for, of which the allowed ones are kept: cheaper than to name so many."""
        aim = self._aim(searcher, query)
        if aim is None:
            return EMPTY
        reach, there = ceil(OVERFETCH * k * max(1.0, searcher.num_docs / len(allowed))), max(searcher.num_docs, 1)
        while True:
            found = _found(searcher, aim, min(reach, there))
            kept = contains(allowed, found.chunks)
            if kept.sum() >= k or len(found) < reach:
                return Candidates(found.chunks[kept][:k], found.scores[kept][:k])
            reach *= WIDEN


@contextmanager
def _system_errors() -> Iterator[None]:
    """What the system refuses, as Python has it: tantivy raises a ValueError, and tells the reason in words."""
    try:
        yield
    except ValueError as error:
        if code := CODE.search(str(error)):
            raise OSError(int(code[1]), str(error)) from error
        raise


def _found(searcher: Searcher, aim: _Aim, k: int) -> Candidates:
    result = searcher.search(aim.query, max(k, 1), count=False)
    chunks = np.array(_chunks(searcher, result), np.int64)
    scores = np.array([score for score, _ in result.hits], np.float32) / np.float32((K1 + 1) * aim.bound)
    order = np.lexsort((chunks, -scores))[:k]  # equals in the order of their numbers, however they lie in segments
    return Candidates(chunks[order], scores[order])


def _chunks(searcher: Searcher, result: SearchResult) -> list[int]:
    values = searcher.fast_field_values("chunk", [address for _, address in result.hits])
    return [int(value) for value in values if value is not None]


def _idf(texts: int, held: int) -> float:
    """What a word weighs that so many of the texts have."""
    return log1p((texts - held + 0.5) / (held + 0.5))


def _schema() -> Schema:
    fields = SchemaBuilder()
    fields.add_unsigned_field("chunk", indexed=True, fast=True)
    fields.add_text_field("text", tokenizer_name="words", index_option="freq")
    fields.add_text_field("all", tokenizer_name="raw", index_option="basic")
    return fields.build()


def _document(chunk: int, text: str) -> Document:
    document = Document()
    document.add_unsigned("chunk", chunk)
    document.add_text("text", respelled(text))
    document.add_text("all", "")
    return document
