from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import apsw
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.errors import StartupError
from app.stores import collections, documents, jobs, log, sqlite
from app.stores.documents import Outcome, Put
from app.stores.filters import AnyOf, allowed_chunks
from app.stores.metadata import classify
from app.stores.rows import number
from app.stores.sqlite import READERS, Database
from app.types import Chunk, Document, Reading, Recipe
from models.types import Ids, Vectors
from tests.app.disks import PAGE, mounted


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "winnow.db")
    yield database
    database.close()


@pytest.fixture
async def table(database: Database) -> Database:
    """A database with one table, two rows of which are always to be equal."""

    def create(db: apsw.Connection) -> None:
        db.execute("CREATE TABLE pair (name TEXT PRIMARY KEY, value INTEGER)")
        db.execute("INSERT INTO pair VALUES ('a', 0), ('b', 0)")

    await database.write(create)
    return database


def pair(db: apsw.Connection) -> list[int]:
    return [value for (value,) in db.execute("SELECT value FROM pair ORDER BY name")]


def raise_both(db: apsw.Connection) -> None:
    for name in "ab":
        (value,) = next(iter(db.execute("SELECT value FROM pair WHERE name = ?", (name,))))
        sleep(0.0002)
        db.execute("UPDATE pair SET value = ? WHERE name = ?", (value + 1, name))


def test_a_new_file_is_opened_the_way_we_trust_it(database: Database, tmp_path: Path) -> None:
    def pragmas(db: apsw.Connection) -> dict[str, Any]:
        return {name: db.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")}

    found = database.read_here(pragmas)
    assert (found["journal_mode"], found["synchronous"], found["foreign_keys"]) == ("wal", 2, 1)
    assert found["user_version"] >= 1
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) >= (3, 51, 3)


def test_migrations_are_applied_once(tmp_path: Path) -> None:
    for _ in range(3):
        database = Database(tmp_path / "winnow.db")
        tables = database.read_here(
            lambda db: [name for (name,) in db.execute("SELECT sql FROM sqlite_schema ORDER BY name")]
        )
        database.close()
        assert len(tables) > 10
    fresh = Database(tmp_path / "other.db")
    same = fresh.read_here(lambda db: [name for (name,) in db.execute("SELECT sql FROM sqlite_schema ORDER BY name")])
    fresh.close()
    assert same == tables


def test_a_file_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "winnow.db"
    Database(path).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 999)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StartupError, match=r"later version.*999.*WINNOW_DATA_DIR"):
        Database(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "winnow.db"
    path.write_bytes(b"what is this? " * 1000)
    with pytest.raises(StartupError, match=r"can't be opened"):
        Database(path)


def test_what_is_damaged_is_to_be_restored(tmp_path: Path) -> None:
    path = tmp_path / "winnow.db"
    Database(path).close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StartupError, match=r"malformed. Restore a backup"):
        Database(path)


def test_a_file_that_another_program_has_open_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 10)
    path = tmp_path / "winnow.db"
    Database(path).close()
    with closing(apsw.Connection(str(path))) as other:
        other.pragma("locking_mode", "exclusive")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StartupError, match=r"locked. Close what else has it open"):
            Database(path)


def test_a_full_disk_is_not_taken_for_damage(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=2m") as folder:
        path = folder / "winnow.db"
        Database(path).close()
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(PAGE))
        with pytest.raises(StartupError, match=r"Free some room on its disk"):
            Database(path)


def test_a_file_that_may_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "winnow.db"
    Database(path).close()
    monkeypatch.setattr(apsw, "Connection", partial(apsw.Connection, flags=apsw.SQLITE_OPEN_READONLY))
    with pytest.raises(StartupError, match=r"may not be written to. See that this user may write to it"):
        Database(path)


async def test_writes_come_one_after_the_other(table: Database) -> None:
    await asyncio.gather(*(table.write(raise_both) for _ in range(100)))
    assert await table.read(pair) == [100, 100]


async def test_a_write_that_fails_leaves_nothing_behind_and_the_next_one_works(table: Database) -> None:
    def half(db: apsw.Connection) -> None:
        db.execute("UPDATE pair SET value = 7 WHERE name = 'a'")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await table.write(half)
    with pytest.raises(apsw.ConstraintError):
        await table.write(lambda db: db.execute("INSERT INTO pair VALUES ('a', 1)"))
    assert await table.read(pair) == [0, 0]
    await table.write(raise_both)
    assert await table.read(pair) == [1, 1]


async def test_readers_see_one_state_from_beginning_to_end(table: Database) -> None:
    def slowly(db: apsw.Connection) -> tuple[list[int], list[int]]:
        first = pair(db)
        sleep(0.005)
        return first, pair(db)

    over = False

    async def read() -> int:
        last = 0
        while not over:
            first, second = await table.read(slowly)
            assert first == second
            assert first[0] == first[1] >= last
            last = first[0]
        return last

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for _ in range(60):
        await table.write(raise_both)
    over = True
    assert max(await asyncio.gather(*readers)) > 0


async def test_a_reader_can_not_write(table: Database) -> None:
    with pytest.raises(apsw.ReadOnlyError):
        await table.read(lambda db: db.execute("DELETE FROM pair"))


async def test_what_nobody_waits_for_is_not_read_to_its_end(table: Database) -> None:
    """Or a few questions that take long, and whose callers have left, would keep all readers from everybody."""
    begun = threading.Semaphore(0)

    def slowly(db: apsw.Connection) -> None:
        begun.release()
        number(
            db, "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 40000000) SELECT sum(n) FROM n"
        )

    reading = [asyncio.create_task(table.read(slowly)) for _ in range(READERS)]
    for _ in reading:
        await asyncio.to_thread(begun.acquire)
    for each in reading:
        each.cancel()
    async with asyncio.timeout(2):
        assert await table.read(pair) == [0, 0]


async def test_a_write_runs_to_its_end_though_its_caller_leaves(table: Database) -> None:
    begun = threading.Event()

    def slowly(db: apsw.Connection) -> None:
        begun.set()
        sleep(0.05)
        raise_both(db)

    writing = asyncio.create_task(table.write(slowly))
    await asyncio.to_thread(begun.wait)
    writing.cancel()
    await asyncio.wait([writing])
    await table.write(raise_both)
    assert await table.read(pair) == [2, 2]


async def test_a_commit_leaves_the_interpreter_to_others(table: Database) -> None:
    """apsw's own `with connection` holds the GIL while the disk writes, and with it the event loop."""

    ticks, before = 0, 0

    def write(db: apsw.Connection) -> None:
        db.execute("CREATE TABLE big (content BLOB)")
        db.executemany("INSERT INTO big VALUES (?)", [(bytes(4000),)] * 15_000)
        db.set_commit_hook(commit)

    def commit() -> bool:
        nonlocal before
        before = ticks
        return False

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await table.write(write)
    ticking.cancel()
    assert ticks - before >= 5


TEXTS = ["one", "two words", "three short words", "four words are here"]
TAGS = ["red", "blue"]


def spelt(word: str) -> Ids:
    return np.array([ord(letter) for letter in word], np.int32)


def split(document: Document) -> list[Chunk]:
    """A chunk for each word, which is read by its letters."""
    chunks, start = [], 0
    for word in document.text.split():
        start = document.text.index(word, start)
        chunks.append(Chunk(start, start + len(word), word, 1, reading=Reading(b"the mark", spelt(word))))
        start += len(word)
    return chunks


def vectors(texts: Sequence[str]) -> Vectors:
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8) for text in texts]
    return np.array(rows, np.float32).reshape(len(texts), 8)


@dataclass
class Version:
    """What the model remembers of a version of a document."""

    document: Document
    number: int
    failed: bool = False


class Truth(RuleBasedStateMachine):
    """Documents are put, published, failed and deleted in any order; dictionaries say what must come of it."""

    ids = st.sampled_from(["a", "b", "c"])
    texts = st.sampled_from(TEXTS)
    tags = st.sampled_from(TAGS)

    def __init__(self) -> None:
        super().__init__()
        self.db = apsw.Connection(":memory:")
        schema = Path(documents.__file__).with_name("schema.sql").read_text()
        self.db.execute("PRAGMA foreign_keys = ON")
        self.db.execute(schema)
        made = collections.insert(self.db, "default", "fake", "fake", Recipe(), 8, "print", "english")
        other = collections.insert(self.db, "other", "fake", "fake", Recipe(), 8, "print", "english")
        self.collection = made.number
        job, _ = jobs.begin(self.db, other.number)
        documents.put(self.db, other.number, job, Document("a", "one"), split)
        self.live: dict[str, Version] = {}
        self.next: dict[str, Version] = {}
        self.replayed: dict[int, bytes] = {}
        self.seen = 0

    def teardown(self) -> None:
        self.db.close()

    @rule(name=ids, text=texts, tag=tags)
    def put(self, name: str, text: str, tag: str) -> None:
        document = Document(name, text, metadata={"tag": tag})
        job, named = jobs.begin(self.db, self.collection)
        jobs.grow(self.db, job, named, self.collection, 1)
        found = documents.put(self.db, self.collection, job, document, split)
        assert found == Put(name, self._expected(document, found.version), found.version, len(text.split()))

    def _expected(self, document: Document, version: int) -> Outcome:
        """What should have come of a put; the books are brought up to date."""
        existed = document.id in self.live or document.id in self.next
        if document.id in self.next and self.next[document.id].document.text != document.text:
            del self.next[document.id]
        newest = self.next.get(document.id) or self.live.get(document.id)
        if newest and newest.document.text == document.text:
            assert version == newest.number
            same = newest.document.metadata == document.metadata
            newest.document, newest.failed = document, False
            return "unchanged" if same else "updated"
        self.next[document.id] = Version(document, version)
        return "replaced" if existed else "created"

    @rule(chunks=st.integers(1, 4))
    def publish(self, chunks: int) -> None:
        for version in log.waiting(self.db, self.collection, chunks):
            log.publish(self.db, self.collection, version, vectors(version.texts))
            (name,) = [name for name, waiting in self.next.items() if waiting.number == version.version]
            self.live[name] = self.next.pop(name)

    @rule()
    def fail(self) -> None:
        for version in log.waiting(self.db, self.collection, 1):
            log.fail(self.db, version.version, "broken")
            next(each for each in self.next.values() if each.number == version.version).failed = True

    @rule(names=st.lists(ids, max_size=2))
    def delete(self, names: list[str]) -> None:
        expected = sorted({name for name in names if name in self.live or name in self.next})
        assert documents.delete(self.db, self.collection, names) == expected
        for name in expected:
            self.live.pop(name, None)
            self.next.pop(name, None)

    @rule()
    def follow(self) -> None:
        """As an index does, and as a snapshot lets the log be forgotten."""
        removed = log.removed(self.db, self.collection, self.seen)
        assert removed is not None
        assert set(removed.tolist()) >= set(self.replayed) - set(self._living())
        while changes := log.changes(self.db, self.collection, self.seen, 2):
            for change in changes:
                assert change.sequence > self.seen
                self.seen = change.sequence
                if change.vector is None:
                    self.replayed.pop(change.chunk, None)
                else:
                    self.replayed[change.chunk] = change.vector.tobytes()
        assert self.replayed == self._living()
        assert self.seen == log.head(self.db, self.collection)

    @rule()
    def prune(self) -> None:
        log.prune(self.db, self.collection, self.seen)
        assert log.floor(self.db, self.collection) == self.seen
        assert log.removed(self.db, self.collection, self.seen) is not None
        if self.seen:
            assert log.removed(self.db, self.collection, self.seen - 1) is None

    def _living(self) -> dict[int, bytes]:
        return {
            change.chunk: change.vector.tobytes()
            for block in log.living(self.db, self.collection, 3)
            for change in block
            if change.vector is not None
        }

    @invariant()
    def newest_versions_are_shown(self) -> None:
        for name in "abc":
            stored = documents.find(self.db, self.collection, name)
            newest = self.next.get(name) or self.live.get(name)
            assert (stored and stored.document) == (newest and newest.document)
            if stored and newest:
                state = "live" if name not in self.next else "failed" if newest.failed else "pending"
                assert stored.state == state
                shown = [stored.document.text[piece.start : piece.end] for piece in stored.chunks]
                assert shown == stored.document.text.split()

    @invariant()
    def exactly_the_chunks_of_live_versions_live(self) -> None:
        living = self._living()
        found = documents.load(self.db, self.collection, np.array(sorted(living), np.int64), b"the mark")
        assert len(found) == len(living)
        assert {(each.document, each.text) for each in found} == {
            (name, word) for name, version in self.live.items() for word in version.document.text.split()
        }
        assert all(vectors([each.text])[0].tobytes() == living[each.chunk] for each in found)
        assert all(each.ids is not None and each.ids.tolist() == spelt(each.text).tolist() for each in found)
        assert all(each.metadata == self.live[each.document].document.metadata for each in found)

    @invariant()
    def filters_allow_the_chunks_of_live_versions_that_match(self) -> None:
        for tag in TAGS:
            allowed = allowed_chunks(self.db, AnyOf("tag", (classify(tag),)), self.collection)
            found = documents.load(self.db, self.collection, allowed)
            names = {name for name, version in self.live.items() if version.document.metadata == {"tag": tag}}
            assert {each.document for each in found} == names
            assert len(found) == len(allowed)

    @invariant()
    def counts_are_right(self) -> None:
        found = collections.contents(self.db, self.collection)
        failed = sum(version.failed for version in self.next.values())
        assert (found.documents, found.failed) == (len(self.live), failed)
        assert found.pending == log.lag(self.db, self.collection) == len(self.next) - failed
        assert found.chunks == sum(len(version.document.text.split()) for version in self.live.values())
        chunks, read = (number(self.db, f"SELECT count(*) FROM {table}") for table in ("chunks", "readings"))
        assert chunks == read


Truth.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
test_documents_in_the_truth = Truth.TestCase
