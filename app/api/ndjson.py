"""NDJSON ingest: documents line by line, without ever holding more than a few of them in memory.

Results are kept aside while the body comes in and are sent after it: a client that reads nothing before it has sent
everything, as most do, would otherwise block against us.
"""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api import checks
from app.api.deps import in_time, pieces
from app.caller import caller
from app.engine import Engine
from app.errors import Fault, Invalid, InvalidDocuments, TimedOut, TooLarge
from app.service.ingest import Ticket
from app.service.shelf import Shelf
from app.types import Document, Metadata

NDJSON = "application/x-ndjson"
BATCH_LINES = 64
BATCH_BYTES = 256 * 1024
SPOOL_BYTES = 2**20

MOST_RESULTS = 2**30
"""Bytes on disk that wait for the end of the body: an answer may be many times as long as what it is about."""

Outcome = dict[str, Any]
"""What became of a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the body; one that is longer than allowed has no content."""

    number: int
    content: bytes | None


@dataclass(slots=True)
class Feed:
    """One NDJSON ingest under way: what was taken in, and what is to be told of each line."""

    engine: Engine
    shelf: Shelf
    tell: Callable[[Outcome], None]
    """Of each line, in their order."""
    ticket: Ticket | None = None
    taken: int = 0
    refused: int = 0
    through: int = 0
    metadata: Metadata = field(default_factory=dict)
    """What every document gets that does not say otherwise."""

    async def take_all(self, body: AsyncIterator[bytes]) -> None:
        async for batch in _batches(_lines(body, self.engine.settings.max_line_bytes), _batch_bytes()):
            await self.take(batch)

    async def take(self, lines: list[Line]) -> None:
        """Take in the good lines of a batch and note what became of each."""
        read = await asyncio.to_thread(lambda: [self._read(line) for line in lines])
        results = {line.number: found for line, found in zip(lines, read, strict=True) if isinstance(found, Invalid)}
        good = [(line.number, found) for line, found in zip(lines, read, strict=True) if isinstance(found, Document)]
        told = {number: self._refusal(number, error) for number, error in results.items()}
        told |= await self._commit(good)
        for number in sorted(told):
            self.tell(told[number])

    async def _commit(self, good: list[tuple[int, Document]]) -> dict[int, Outcome]:
        """Commit a batch; documents that can't be chunked are named, and the others committed without them."""
        if not good:
            return {}
        try:
            self.ticket, puts = await self.engine.ingest.take(self.shelf, [each for _, each in good], self.ticket)
        except InvalidDocuments as error:
            wrong = {int(fault.pointer.split("/")[2]): fault.detail for fault in error.faults}
            told = {good[i][0]: self._refusal(good[i][0], InvalidDocuments(f"title {why}")) for i, why in wrong.items()}
            return told | await self._commit([each for i, each in enumerate(good) if i not in wrong])
        self.taken += len(puts)
        self.through = max(self.through, *(put.version for put in puts))
        return {
            number: {"line": number, "id": put.id, "status": put.outcome, "chunks": put.chunks}
            for (number, _), put in zip(good, puts, strict=True)
        }

    def _read(self, line: Line) -> Document | Invalid:
        if line.content is None:
            return Invalid(f"The line is longer than {self.engine.settings.max_line_bytes} bytes.")
        try:
            read = checks.document(orjson.loads(line.content), "", self.engine.settings, self.metadata)
        except orjson.JSONDecodeError as error:
            return Invalid(f"The line is not valid JSON: {error}")
        return read if isinstance(read, Document) else Invalid("The document is invalid.", read)

    def _refusal(self, number: int, error: Invalid) -> Outcome:
        self.refused += 1
        told: Outcome = {"line": number, "error": str(error)}
        if error.faults:
            told["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in error.faults]
        return told


async def ingest_lines(request: Request, engine: Engine, collection: str, *, wait: bool) -> Response:
    shelf = engine.collections.taking(collection)
    async with AsyncExitStack() as stack:
        results = stack.enter_context(SpooledTemporaryFile(SPOOL_BYTES))  # noqa: SIM115  # the stack is its context
        feed = Feed(engine, shelf, partial(_keep, results))
        await feed.take_all(pieces(request))
        if not feed.taken and not feed.refused:
            raise Invalid("The body holds no line.", [Fault("", "send one JSON document a line")])
        summary = await _finish(request, feed, collection, wait=wait)
        status = 200 if summary["searchable"] else 202
        return StreamingResponse(_replay(results, summary, stack.pop_all()), status, media_type=NDJSON)


def _keep(results: SpooledTemporaryFile[bytes], told: Outcome) -> None:
    if results.tell() > MOST_RESULTS:
        raise TooLarge(f"What is to be told of {told['line']} lines is too much for one answer: send fewer at once.")
    results.write(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))


async def _finish(request: Request, feed: Feed, collection: str, *, wait: bool) -> dict[str, Any]:
    """The last line of the answer: how it went altogether."""
    failed: dict[str, str] = {}
    searchable = wait
    if wait and feed.ticket is not None:
        work = feed.engine.ingest.settled(feed.shelf, feed.ticket, feed.through)
        try:
            failed = await in_time(request, feed.engine.settings.ingest_timeout, work)
        except TimedOut:
            searchable = False
    job = feed.ticket.id if feed.ticket else None
    counts = {"documents": feed.taken, "refused": feed.refused, "failed": failed}
    return {"job": job, "collection": collection, "searchable": searchable, **counts}


async def _lines(body: AsyncIterator[bytes], longest: int) -> AsyncIterator[Line]:
    """The lines of a body, numbered from 1; blank ones count and are passed over."""
    under_way = _UnderWay(longest)
    async for piece in body:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            under_way.take(end)
            if line := under_way.end():
                yield line
        under_way.take(rest)
    if line := under_way.end():
        yield line


class _UnderWay:
    """A line that has not ended yet, in one buffer: it may come byte by byte, and would be copied as often."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 1
        self._content = bytearray()
        self._size = 0

    def take(self, part: bytes) -> None:
        """No more of it is held than allowed."""
        self._size += len(part)
        if self._size <= self._longest:
            self._content += part

    def end(self) -> Line | None:
        """The line, unless it is blank; the next one begins."""
        number, content = self._number, bytes(self._content) if self._size <= self._longest else None
        self._number, self._size = number + 1, 0
        self._content.clear()
        if number == 1 and content is not None:
            content = content.removeprefix(BOM_UTF8)
        return Line(number, content) if content is None or content.strip() else None


def _batch_bytes() -> int:
    """Less for a caller who may have few tokens read: a batch shall not cost more than a minute's worth."""
    per_minute = caller().meter.per_minute
    return BATCH_BYTES if per_minute is None else min(BATCH_BYTES, per_minute // 2)


async def _batches(lines: AsyncIterator[Line], most: int) -> AsyncIterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    async for line in lines:
        if batch and (len(batch) >= BATCH_LINES or size + len(line.content or b"") > most):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.content or b"")
    if batch:
        yield batch


async def _replay(
    results: SpooledTemporaryFile[bytes], summary: dict[str, Any], held: AsyncExitStack
) -> AsyncIterator[bytes]:
    async with held:
        results.seek(0)
        while part := results.read(65_536):
            yield part
        yield orjson.dumps(summary, option=orjson.OPT_APPEND_NEWLINE)
