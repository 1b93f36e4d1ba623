"""One `winnow ingest` under way: batches go out, their jobs are followed, and account is kept of every document."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.terminal.client import UNREACHABLE, Client, Failure, Refused, read_json, read_lines
from app.terminal.shipment import REFUSED_BEFORE, Shipment, Shipped
from app.terminal.sources import Batch, Source, batches

TIMEOUT = httpx.Timeout(10.0, read=3600.0, write=3600.0)
"""For lines: the service goes on with them, and reads on, at the pace of its key's allowance."""

POLL_SECONDS = 0.2
STALLED_SECONDS = 20.0
NAMED = 20
"""Refused documents that are named; more are counted."""


@dataclass(slots=True)
class Tally:
    """What became of the documents."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    refused: int = 0
    before: int = 0
    """Of these, files that were not sent since the service could not read them before."""
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    deleted: int = 0
    began: float = field(default_factory=monotonic)
    seconds: float = 0.0

    @property
    def taken(self) -> int:
        return self.outcomes.total()

    @property
    def clean(self) -> bool:
        return not self.refused and not self.failed

    def refuse(self, place: str, why: str, *, always_named: bool = False) -> None:
        self.refused += 1
        if always_named or self.refused <= NAMED:
            self.refusals.append(f"{place} {why}")

    def fail(self, documents: int, why: str) -> None:
        self.failed += documents
        if len(self.failures) < NAMED and why not in self.failures:
            self.failures.append(why)


class Screen:
    """Two bars: what is read and acknowledged, and what can be found."""

    def __init__(self, console: Console, size: int) -> None:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self.console = console
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._size = size
        self._began = monotonic()
        self._reading = self.bars.add_task("sent", total=max(size, 1), note="")
        self._indexing = self.bars.add_task("searchable", total=None, note="")

    def show(self, read: int, taken: int, searchable: int) -> None:
        megabytes = f"{read / 1e6:,.1f} of {self._size / 1e6:,.1f} MB"
        self._move(self._reading, read or 1, None, f"{taken:,} documents, {self._rate(taken)}, {megabytes}")
        self._move(self._indexing, searchable, taken, f"{searchable:,} documents, {self._rate(searchable)}")

    def say(self, message: str) -> None:
        self.console.print(f"[yellow]{escape(message)}[/]", soft_wrap=True)

    def _move(self, bar: TaskID, done: int, total: int | None, note: str) -> None:
        self.bars.update(bar, completed=done, total=total, note=note)

    def _rate(self, documents: int) -> str:
        return f"{documents / max(monotonic() - self._began, 0.001):,.0f}/s"


class Upload:
    """Sends everything, then waits until everything can be found."""

    def __init__(self, client: Client, collection: str, screen: Screen) -> None:
        self._client = client
        self._collection = collection
        self._screen = screen
        self._jobs: deque[str] = deque()
        self._settled = 0
        self._read = 0
        self.tally = Tally()

    async def run(self, sources: Sequence[Source], *, prune: bool = False, retry: bool = False) -> Tally:
        with self._screen.bars:
            waiting = batches(source for source in sources if not source.is_file)
            while batch := await asyncio.to_thread(next, waiting, None):
                await self._send(batch)
                await self._follow()
            shipment = Shipment(self._client, self._collection, self._screen.say, retry=retry)
            async for shipped in shipment.send(sources):
                self._take(shipped)
                await self._follow()
            self.tally.deleted = await shipment.prune(sources) if prune else 0
            await self._settle()
        self.tally.seconds = monotonic() - self.tally.began
        return self.tally

    async def _send(self, batch: Batch) -> None:
        for record in batch.bad:
            self.tally.refuse(record.place, record.fault)
        if batch.good:
            response = await self._client.patiently(
                "POST",
                "/ingest",
                self._screen.say,
                params={"collection": self._collection, "wait": "false"},
                content=batch.body,
                headers={"content-type": "application/x-ndjson"},
                timeout=TIMEOUT,
            )
            self._account(batch, read_lines(response))
        self._read = batch.read

    def _account(self, batch: Batch, told: list[dict[str, Any]]) -> None:
        if len(told) != len(batch.good) + 1 or "job" not in told[-1]:
            raise Failure("The service's answer broke off.", UNREACHABLE)
        *lines, summary = told
        for record, line in zip(batch.good, lines, strict=True):
            if "error" in line:
                self.tally.refuse(record.place, _reason(line))
            else:
                self.tally.outcomes[line["status"]] += 1
        if summary["job"]:
            self._jobs.append(summary["job"])

    def _take(self, shipped: Shipped) -> None:
        """Account for files; each one that could not be read is named, however many there are."""
        self._read += shipped.size
        for file in shipped.files:
            if file["status"] == REFUSED_BEFORE:
                self.tally.before += 1
                self.tally.refuse(file["path"], f"{file['reason']} (refused before, not sent again)", always_named=True)
            elif file["status"] == "failed":
                self.tally.refuse(file["path"], file["reason"], always_named=True)
            else:
                self.tally.outcomes[file["status"]] += 1
        self._jobs += shipped.jobs

    async def _follow(self) -> int:
        """How many documents can be found by now. Jobs end in the order they began, so only the first is asked."""
        while self._jobs:
            job = await self._job(self._jobs[0])
            if job["state"] == "running":
                return self._show(self._settled + job["documents"] - job["pending"])
            if job["failed"]:
                self.tally.fail(job["failed"], job["error"] or "no reason was given")
            self._settled += job["documents"]
            self._jobs.popleft()
        return self._show(self._settled)

    async def _job(self, job: str) -> Any:
        return read_json(await self._client.patiently("GET", f"/jobs/{job}", self._screen.say))

    def _show(self, searchable: int) -> int:
        self._screen.show(self._read, self.tally.taken, searchable)
        return searchable

    async def _settle(self) -> None:
        """Wait for the last job; when nothing moves for long, say what the service says of itself."""
        before, since = -1, monotonic()
        while self._jobs:
            await asyncio.sleep(POLL_SECONDS)
            searchable = await self._follow()
            if searchable != before:
                before, since = searchable, monotonic()
            elif monotonic() - since > STALLED_SECONDS:
                self._screen.say(f"No document became searchable for {STALLED_SECONDS:.0f} s: {await self._why()}.")
                since = monotonic()

    async def _why(self) -> str:
        try:
            reasons = (await self._client.readiness())["reasons"]
        except Refused as refusal:  # it does not even say why, which is no reason to stop
            return str(refusal).rstrip(".")
        return "; ".join(reasons) or "the service is busy with other work"


def _reason(line: dict[str, Any]) -> str:
    """Why the service refused a document, in one line."""
    faults = [f"{fault['pointer']} {fault['detail']}".strip() for fault in line.get("errors", ())]
    return "; ".join(faults) or str(line["error"])
