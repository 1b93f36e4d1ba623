"""Files in: known already → read in a sandbox → taken in as any document. One that can't be read stops no other."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from time import monotonic
from typing import IO, Any, get_args

import apsw

from app.caller import caller
from app.errors import InvalidDocuments, Overloaded
from app.files.convert import convert
from app.files.readers import READERS, converter
from app.files.sandbox import Sandbox, longest
from app.files.types import Converted, Kind, Unreadable
from app.service.ingest import Ingest, Ticket
from app.service.shelf import Shelf
from app.settings import Settings
from app.stores import documents, refusals
from app.stores.documents import Origin, Outcome, Put, Stored
from app.stores.refusals import Attempt
from app.stores.sqlite import Database
from app.telemetry import Metrics, Stopwatch
from app.types import Document, Metadata

PIECE = 2**20
LONGEST_TITLE = 120
ANSWER_BYTES_PER_CHAR = 8
SMOOTHING = 0.3
"""Weight of the newest upload in the running mean of how long one takes."""


@dataclass(frozen=True, slots=True)
class File:
    """A file as it came."""

    path: str
    kind: Kind
    content: IO[bytes]


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that became a document."""

    ticket: Ticket
    put: Put
    pages: int


class Files:
    """Takes files in, as many at once as there are workers."""

    def __init__(
        self, database: Database, ingest: Ingest, settings: Settings, metrics: Metrics, threads: Executor
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._workers = asyncio.Semaphore(settings.file_workers or max(1, (os.cpu_count() or 1) // 2))
        for kind in (*get_args(Kind), "other"):
            for outcome in (*get_args(Outcome), "failed"):
                metrics.files.labels(kind, outcome)
        self._uploads = 0
        self._upload_seconds = 1.0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Room for an upload, before anything of it is read."""
        most = self._settings.max_uploads
        if self._uploads >= most:
            self._metrics.refusals.labels("files").inc()
            raise Overloaded(f"{most} uploads of files are under way, the most that are allowed.", self._upload_seconds)
        self._uploads += 1
        began = monotonic()
        try:
            yield
        finally:
            self._uploads -= 1
            self._upload_seconds += SMOOTHING * (monotonic() - began - self._upload_seconds)

    async def known(self, shelf: Shelf, hashes: Mapping[str, tuple[Kind, str]]) -> list[str]:
        """Of these paths, those whose document was made of the same content in the same way."""
        number = shelf.collection.number
        held = await self._database.read(lambda db: documents.origins(db, number, list(hashes)))
        return [path for path, (kind, sha256) in hashes.items() if held.get(path) == Origin(sha256, converter(kind))]

    async def refused(self, shelf: Shelf, hashes: Mapping[str, tuple[Kind, str]]) -> dict[str, str]:
        """Of these paths, those whose content could not be read and could not be now, each with the reason."""
        attempts = {path: self.attempt(shelf, kind, sha256) for path, (kind, sha256) in hashes.items()}
        failed = await self._database.read(lambda db: refusals.find(db, attempts.values()))
        return {path: failed[attempt] for path, attempt in attempts.items() if attempt in failed}

    def patience(self, files: int) -> float:
        """Seconds that so many files may take before they are documents that wait to be found."""
        return files * longest(self._settings.file_seconds) + self._settings.ingest_timeout

    async def take(self, shelf: Shelf, file: File, metadata: Metadata, ticket: Ticket | None) -> Taken:
        """Acknowledge a file as a document with its path as id, or say why it is Unreadable, and remember that."""
        sha256 = await self._in_thread(lambda: _sha256(file.content))
        if held := await self._held(shelf, file, sha256):
            document = replace(held, metadata=metadata | {"file": held.metadata["file"]})
        else:
            document = document_of(file, sha256, await self._read(shelf, file, sha256), metadata)
        ticket, put = await self._put(shelf, document, ticket)
        return Taken(ticket, put, len(document.pages))

    async def _held(self, shelf: Shelf, file: File, sha256: str) -> Document | None:
        """The document if it was made of the same content in the same way."""
        number, origin = shelf.collection.number, Origin(sha256, converter(file.kind))

        def read(db: apsw.Connection) -> Stored | None:
            made = documents.origins(db, number, [file.path]).get(file.path)
            return documents.find(db, number, file.path) if made == origin else None

        stored = await self._database.read(read)
        return stored.document if stored else None

    async def _read(self, shelf: Shelf, file: File, sha256: str) -> Converted:
        """The file as text; what an earlier attempt led to counts no more."""
        attempt = self.attempt(shelf, file.kind, sha256)
        caller().meter.expect(1)
        try:
            check_size(file, self._settings)
            made = await self._convert(file)
        except Unreadable as error:
            if not error.passing:
                await self.remember(attempt, str(error))
            raise
        if await self._database.read(lambda db: refusals.find(db, [attempt])):
            await self._database.write(lambda db: refusals.remove(db, attempt))
        return made

    async def remember(self, attempt: Attempt, reason: str) -> None:
        """That it failed, and would again."""
        await self._database.write(lambda db: refusals.put(db, attempt, reason))

    def attempt(self, shelf: Shelf, kind: Kind, sha256: str) -> Attempt:
        """To read a content as a kind, by this service's reader and limits."""
        given = self._settings
        limits = (given.file_seconds, given.file_memory_bytes, given.max_file_bytes, given.max_text_chars)
        return Attempt(shelf.collection.number, sha256, kind, f"{converter(kind)}, limits {limits}")

    async def _convert(self, file: File) -> Converted:
        async with self._workers:
            with Stopwatch(self._metrics, "ingest").stage("convert"):
                return await read_file(file, self._settings, self._threads)

    async def _put(self, shelf: Shelf, document: Document, ticket: Ticket | None) -> tuple[Ticket, Put]:
        """A title that is too long for the collection's chunks is no reason to lose the rest."""
        try:
            ticket, (put,) = await self._ingest.take(shelf, [document], ticket)
        except InvalidDocuments as error:
            if not document.title:
                raise Unreadable(f"can't be chunked: {error.faults[0].detail}") from error
            return await self._put(shelf, replace(document, title=""), ticket)
        return ticket, put

    async def _in_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


async def read_file(file: File, settings: Settings, threads: Executor) -> Converted:
    """A file as text; all but decoding is done in a process of its own."""
    most, memory = settings.max_text_chars, settings.file_memory_bytes
    asked = (file.content, file.kind, most, memory)
    if READERS[file.kind].decodes:
        made = await asyncio.get_running_loop().run_in_executor(threads, convert, *asked)
    else:
        sandbox = Sandbox(settings.file_seconds, memory, ANSWER_BYTES_PER_CHAR * most + 2**20)
        made = await sandbox.run("app.files.convert:convert", *asked)
    return Converted(made["text"], made["title"], tuple(made["pages"]))


def check_size(file: File, settings: Settings) -> None:
    size, most = file.content.seek(0, os.SEEK_END), settings.max_file_bytes
    if size > most:
        raise Unreadable(f"is {size} bytes long; at most {most} are allowed: split it, or raise WINNOW_MAX_FILE_BYTES")


def _sha256(content: IO[bytes]) -> str:
    content.seek(0)
    digest = hashlib.sha256()
    while piece := content.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def document_of(file: File, sha256: str, made: Converted, metadata: Metadata) -> Document:
    """The document that a file becomes."""
    title = made.title or PurePosixPath(file.path).stem
    about: dict[str, Any] = {
        "path": file.path, "kind": file.kind, "sha256": sha256, "converter": converter(file.kind),
    }  # fmt: skip
    if made.pages:
        about["pages"] = len(made.pages)
    return Document(
        file.path,
        made.text,
        title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…",
        metadata | {"file": about},
        "plain" if file.kind == "text" else "markdown",
        made.pages,
    )
