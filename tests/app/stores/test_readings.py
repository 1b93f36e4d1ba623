"""What is kept of chunks for rerankers: as it was read, with the chunk, and never another tokenizer's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import resources

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stores import collections, documents, jobs, readings
from app.stores.rows import number, token_bytes, token_ids
from app.types import Chunk, Document, Reading, Recipe
from models.tokens import TextTokenizer
from models.types import Ids
from tests.models import tiny
from tests.models.test_tokens import NASTY

MARK, OTHER = b"the mark", b"an other"
COLLECTION = 1


@contextmanager
def open_truth() -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(":memory:")) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(resources.files("app.stores").joinpath("schema.sql").read_text())
        collections.insert(db, "default", "fake", "fake", Recipe(), 8, "print", "english")
        yield db


@pytest.fixture
def db() -> Iterator[apsw.Connection]:
    with open_truth() as db:
        yield db


def some(*ids: int) -> Ids:
    return np.array(ids, np.int32)


def put(db: apsw.Connection, name: str, *texts: str, reading: Reading | None = None) -> None:
    """A living document with a chunk for each text."""

    def split(document: Document) -> Sequence[Chunk]:
        return [Chunk(0, len(text), text, 1, reading=reading) for text in texts]

    job, _ = jobs.begin(db, COLLECTION)
    documents.put(db, COLLECTION, job, Document(name, "\n".join(texts)), split)
    db.execute("UPDATE documents SET state = 'live'")


def kept(db: apsw.Connection, tokenisation: bytes | None = MARK) -> list[Ids | None]:
    chunks = np.array([chunk for (chunk,) in db.execute("SELECT number FROM chunks ORDER BY number")], np.int64)
    return [found.ids for found in documents.load(db, COLLECTION, chunks, tokenisation)]


def unread(db: apsw.Connection, since: str = "", amount: int = 100) -> list[str]:
    return [each.text for each in readings.unread(db, COLLECTION, MARK, since, amount)]


@given(st.sampled_from([2**16, 2**31]).flatmap(lambda end: st.lists(st.integers(0, end - 1))))
def test_ids_come_back_as_they_were_and_small_ones_take_two_bytes(ids: list[int]) -> None:
    raw, width = token_bytes(some(*ids))
    assert token_ids(raw, width).tolist() == ids
    assert token_ids(raw, width).dtype == np.int32
    assert len(raw) == width * len(ids)
    assert width == (4 if any(each >= 2**16 for each in ids) else 2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(query=NASTY, texts=st.lists(NASTY, min_size=1, max_size=3))
def test_pairs_of_kept_ids_are_those_of_the_texts(family: str, query: str, texts: list[str]) -> None:
    tokenizer = TextTokenizer(tiny.tokenizer(family), 24)
    with open_truth() as db:
        for name, text in enumerate(texts):
            put(db, str(name), text, reading=Reading(tokenizer.mark(), tokenizer.contents([text])[0]))
        again = [ids for ids in kept(db, tokenizer.mark()) if ids is not None]
    made = tokenizer.pairs(query, tokenizer.contents(texts))
    for one, other in zip(tokenizer.pairs(query, again), made, strict=True):
        assert (one.ids.tolist(), one.types.tolist(), one.total) == (
            other.ids.tolist(),
            other.types.tolist(),
            other.total,
        )


def test_a_chunk_is_loaded_with_its_reading_by_the_tokenizer_that_is_asked(db: apsw.Connection) -> None:
    put(db, "a", "one", reading=Reading(MARK, some(7, 70_000)))
    put(db, "b", "two", reading=Reading(OTHER, some(8)))
    put(db, "c", "three")
    assert [None if ids is None else ids.tolist() for ids in kept(db)] == [[7, 70_000], None, None]
    assert [None if ids is None else ids.tolist() for ids in kept(db, OTHER)] == [None, [8], None]
    assert kept(db, None) == [None] * 3


def test_a_reading_goes_with_its_chunk(db: apsw.Connection) -> None:
    for name in "abc":
        put(db, name, "one", "two", reading=Reading(MARK, some(1)))
    documents.delete(db, COLLECTION, ["a"])
    assert number(db, "SELECT count(*) FROM readings") == 4
    collections.drop(db, COLLECTION)
    assert number(db, "SELECT count(*) FROM readings") == 0


def test_a_reading_of_a_chunk_that_is_gone_is_passed_over(db: apsw.Connection) -> None:
    put(db, "a", "one")
    readings.insert(db, [(1, Reading(MARK, some(1))), (99, Reading(MARK, some(2)))])
    assert [ids is not None for ids in kept(db)] == [True]
    assert number(db, "SELECT count(*) FROM readings") == 1


def test_a_reading_takes_the_place_of_another_tokenizers(db: apsw.Connection) -> None:
    put(db, "a", "one", reading=Reading(OTHER, some(8)))
    readings.insert(db, [(1, Reading(MARK, some(9)))])
    assert [None if ids is None else ids.tolist() for ids in kept(db)] == [[9]]
    assert kept(db, OTHER) == [None]


def test_chunks_without_a_reading_are_found_some_at_a_time(db: apsw.Connection) -> None:
    other = collections.insert(db, "other", "fake", "fake", Recipe(), 8, "print", "english")
    job, _ = jobs.begin(db, other.number)
    documents.put(db, other.number, job, Document("a", "elsewhere"), lambda _: [Chunk(0, 9, "elsewhere", 1)])
    put(db, "b", "two", "three", "four")
    put(db, "a", "one")
    put(db, "c", "five", reading=Reading(MARK, some(1)))
    put(db, "d", "six", reading=Reading(OTHER, some(1)))
    assert unread(db) == ["one", "two", "three", "four", "six"]
    assert unread(db, amount=2) == ["one", "two"]
    assert unread(db, since="b", amount=2) == ["two", "three"]
    readings.insert(db, [(each.chunk, Reading(MARK, some())) for each in readings.unread(db, COLLECTION, MARK, "", 2)])
    assert unread(db, since="b") == ["three", "four", "six"]
