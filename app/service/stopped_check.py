"""The same check of a data folder that nobody works in: what is on disk is looked at before a start can mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TypeVar

import apsw

from app.errors import Damaged, StartupError
from app.service.check import Pace
from app.service.comparison import Difference, compare
from app.service.findings import PARTS, Finding, Report, of_index
from app.service.follower import Workers, refusal
from app.service.indexes import Indexes, Kind
from app.settings import Settings
from app.stores import collections, hnsw_file, lexical_folder, log, snapshot, soundness
from app.stores.data_dir import DATABASE, INDEXES, claim
from app.stores.holdings import HeldWords, Holding, of_graph
from app.stores.lexical import TantivyIndex
from app.stores.sqlite import Database
from app.telemetry import Metrics
from app.types import Collection

T = TypeVar("T")

Held = tuple[int, Holding]
"""An index on disk, and the last change that it has seen."""

Found = dict[Kind, list[Finding]]

KINDS: tuple[Kind, ...] = ("dense", "lexical")
"""The index of sparse vectors has no files."""

MANIFESTS: dict[Kind, str] = {"dense": snapshot.MANIFEST, "lexical": lexical_folder.MANIFEST}


def check_folder(settings: Settings, report: Report) -> None:
    """All of it, in the calling thread; no model is needed, and none is opened."""
    with claim(settings.data_dir):
        try:
            database = Database(settings.data_dir / DATABASE)
        except StartupError as error:
            report.findings.append(Finding("database", str(error)))
            return
        with closing(database):
            try:
                Folder(settings, database, report).check()
            except apsw.Error as error:
                report.give_up(error)


class Folder:
    """A check of one folder."""

    def __init__(self, settings: Settings, database: Database, report: Report) -> None:
        self._settings = settings
        self._database = database
        self._report = report
        self._pace = Pace(report, Event(), resting=0)

    def check(self) -> None:
        self._report.findings += self._read(lambda db: [Finding("database", each) for each in soundness.of_file(db)])
        for collection in self._read(collections.every):
            self._report.collections += 1
            self._report.begin(f"{collection.name}: documents")
            self._report.findings += self._documents(collection)
            found: Found = {kind: self._index(collection, kind) for kind in KINDS}
            damaged = [kind for kind, findings in found.items() if findings]
            if damaged and self._report.repairs:
                found = self._repair(collection, damaged, found)
            self._report.findings += [each for findings in found.values() for each in findings]

    def _documents(self, collection: Collection) -> list[Finding]:
        sparse = bool(collection.sparse)
        told = self._read(
            lambda db: list(soundness.of_collection(db, collection.number, collection.dimensions, sparse=sparse))
        )
        return [Finding("documents", each, collection.name) for each in told]

    def _index(self, collection: Collection, kind: Kind) -> list[Finding]:
        """What is wrong with an index: with its files, or else with what they hold."""
        head, floor = self._read(lambda db: (log.head(db, collection.number), log.floor(db, collection.number)))
        if not head and not (self._place(collection, kind) / MANIFESTS[kind]).exists():
            return []
        try:
            seen, holding = self._open(collection, kind)
        except (OSError, ValueError) as error:
            return list(of_index(collection.name, kind, Difference(), _told(error)))
        if reason := refusal(seen, floor, head):
            return list(of_index(collection.name, kind, Difference(), reason))
        living = self._read(lambda db: log.count_living(db, collection.number))
        self._report.begin(f"{collection.name}: {PARTS[kind]}", living)
        found = self._read(lambda db: compare(db, collection.number, holding, self._pace, None, seen))
        return list(of_index(collection.name, kind, found, None))

    def _open(self, collection: Collection, kind: Kind) -> Held:
        folder = self._place(collection, kind)
        if kind == "lexical":
            seen = lexical_folder.checked(folder, collection.language).sequence
            return seen, HeldWords(TantivyIndex(collection.language, folder, seen))
        found = snapshot.check(folder, collection.fingerprint, collection.dimensions, self._settings)
        return found.sequence, of_graph(hnsw_file.read(folder / found.file, found.dimensions))

    def _place(self, collection: Collection, kind: Kind) -> Path:
        folder = self._settings.data_dir / INDEXES / str(collection.number)
        return folder / "lexical" if kind == "lexical" else folder

    def _repair(self, collection: Collection, damaged: Sequence[Kind], before: Found) -> Found:
        """Remove what is damaged and open the indexes as a start does: that builds what is missing."""
        self._report.begin(f"{collection.name}: building anew")
        for kind in damaged:
            (self._place(collection, kind) / MANIFESTS[kind]).unlink(missing_ok=True)
        try:
            asyncio.run(self._build(collection))
        except ValueError as error:
            raise Damaged(f"The indexes of '{collection.name}' can't be built from the database: {error}.") from error
        after = {kind: self._index(collection, kind) for kind in damaged}
        return {
            kind: [*(replace(each, repaired=not after[kind]) for each in found), *after[kind]]
            for kind, found in before.items()
            if found
        }

    async def _build(self, collection: Collection) -> None:
        folder = self._settings.data_dir / INDEXES / str(collection.number)
        with ThreadPoolExecutor(2, "build") as threads:
            indexes = Indexes(
                self._database, collection, folder, self._settings, Metrics(), Workers(threads, threads, Event())
            )
            await indexes.open()
            await indexes.close()

    def _read(self, what: Callable[[apsw.Connection], T]) -> T:
        return self._database.read_here(what)


def _told(error: OSError | ValueError) -> str:
    return f"there is no {Path(error.filename).name}" if isinstance(error, FileNotFoundError) else str(error)
