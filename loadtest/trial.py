"""One peer, measured: started, filled, asked in every way, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Literal, Protocol

import httpx

from loadtest.lineup import Peer
from loadtest.load import Ask, Likeness, Load, closed_loop, likeness, open_loop
from loadtest.machine import Meter
from loadtest.passages import Passage
from loadtest.service import Unavailable, free_port, running

WARM_UP = 3
"""Searches before any is measured."""
INGEST_SECONDS = 3600.0
KEEP_ALIVE_SECONDS = 2.0
SETTLE_SECONDS = 300
RESTING = 0.2
"""CPU seconds in a second of a service that does nothing."""
Kind = Literal["closed", "open"]


class Screen(Protocol):
    """Who watches."""

    def doing(self, what: str) -> None: ...

    def done(self, phase: Phase) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What every peer goes through; the same for all."""

    passages: Sequence[Passage]
    questions: Sequence[str]
    right: dict[str, list[str]]
    clients: Sequence[int]
    shares: Sequence[float]
    """Of a peer's best throughput, as rates of arrivals."""
    seconds: float
    patience: float
    starts: int
    """Times that a peer is started; the last one counts, when what it reads is in memory and converted."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One way of asking and what came of it."""

    kind: Kind
    amount: float
    """Clients, or arrivals a second."""
    title: str
    load: Load
    cpu_seconds: float

    @property
    def cpu_per_search(self) -> float | None:
        return self.cpu_seconds / self.load.answered if self.load.answered else None


@dataclass(slots=True)
class Trial:
    """What was found out about one peer; `trouble` says why it is not more."""

    peer: Peer
    ready_seconds: float | None = None
    ingest_seconds: float | None = None
    peak_bytes: int | None = None
    phases: list[Phase] = field(default_factory=list)
    likeness: Likeness | None = None
    trouble: str | None = None

    @property
    def best_rate(self) -> float:
        return max((phase.load.rate for phase in self.phases if phase.kind == "closed"), default=0.0)

    def closed(self, clients: int) -> Phase | None:
        return next((each for each in self.phases if (each.kind, each.amount) == ("closed", clients)), None)


def try_peer(peer: Peer, python: Path, plan: Plan, common: float | None, scratch: Path, screen: Screen) -> Trial:
    """`common` is a rate of arrivals for all peers; the first one has none and sets it."""
    trial, log = Trial(peer), (scratch / f"{peer.name}.log").resolve()
    try:
        for start in range(plan.starts):
            screen.doing(f"starting ({start + 1} of {plan.starts})")
            _run(trial, python, plan if start + 1 == plan.starts else None, common, log, screen)
    except Unavailable as error:
        trial.trouble = str(error)
    return trial


def _run(trial: Trial, python: Path, plan: Plan | None, common: float | None, log: Path, screen: Screen) -> None:
    """From start to stop; without a plan, only that."""
    port = free_port()
    with TemporaryDirectory() as folder:
        commands = trial.peer.commands(python, Path(folder), port)
        with running(commands, Path(folder), log) as service:
            trial.ready_seconds = service.ready_seconds
            if plan is None:
                return
            with Meter(service.pids) as meter:
                course = Course(trial, plan, meter, log, screen)
                asyncio.run(course.run(f"http://127.0.0.1:{port}", common))
            trial.peak_bytes = meter.peak_bytes


class Course:
    """All that is done with a service that runs."""

    def __init__(self, trial: Trial, plan: Plan, meter: Meter, log: Path, screen: Screen) -> None:
        self._trial = trial
        self._plan = plan
        self._meter = meter
        self._log = log
        self._screen = screen
        self._questions = cycle(plan.questions)

    async def run(self, url: str, common: float | None) -> None:
        async with _client(url) as client:
            await self._fill(client)
            ask = self._trial.peer.asker(client)
            await self._warm_up(ask)
            for clients in self._plan.clients:
                await self._closed(ask, clients)
            for rate, title in self._rates(common):
                await self._open(ask, rate, title)
        answers = [answer for phase in self._trial.phases for answer in phase.load.answers]
        self._trial.likeness = likeness(answers, self._plan.right)

    async def _fill(self, client: httpx.AsyncClient) -> None:
        self._screen.doing(f"taking in {len(self._plan.passages):,} passages")
        began = perf_counter()
        try:
            async with asyncio.timeout(INGEST_SECONDS):
                await self._trial.peer.dialect.ingest(client, self._plan.passages)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"took no passages in: {error or type(error).__name__}", self._log) from error
        self._trial.ingest_seconds = perf_counter() - began

    async def _warm_up(self, ask: Ask) -> None:
        """With questions from the end, so that nobody has the first ones in a cache."""
        rare = self._plan.questions[-WARM_UP:]
        load = await open_loop(ask, iter(rare), rate=100.0, seconds=WARM_UP / 100, patience=self._plan.patience)
        if not load.answered:
            raise Unavailable("answered no search", self._log)

    async def _closed(self, ask: Ask, clients: int) -> None:
        loop = closed_loop(ask, self._questions, clients, self._plan.seconds, self._plan.patience)
        await self._measure("closed", clients, f"{clients} client{'s' * (clients > 1)}", loop)

    async def _open(self, ask: Ask, rate: float, why: str) -> None:
        loop = open_loop(ask, self._questions, rate, self._plan.seconds, self._plan.patience)
        await self._measure("open", rate, f"{rate:.2f} arrivals/s, {why}", loop)

    async def _measure(self, kind: Kind, amount: float, title: str, loop: Coroutine[Any, Any, Load]) -> None:
        await self._settle()
        self._screen.doing(title)
        before = self._meter.cpu_seconds()
        load = await loop
        phase = Phase(kind, amount, title, load, self._meter.cpu_seconds() - before)
        self._trial.phases.append(phase)
        self._screen.done(phase)

    async def _settle(self) -> None:
        """Let the service finish what nobody waits for any more."""
        self._screen.doing("waiting until it rests")
        for _ in range(SETTLE_SECONDS):
            before = self._meter.cpu_seconds()
            await asyncio.sleep(1)
            if self._meter.cpu_seconds() - before < RESTING:
                return

    def _rates(self, common: float | None) -> Iterator[tuple[float, str]]:
        for share in self._plan.shares if self._trial.best_rate else ():
            yield share * self._trial.best_rate, f"{share:.0%} of its best"
        if common is not None:
            yield common, "the same for all"


def _client(url: str) -> httpx.AsyncClient:
    """As many connections as there are questions under way. None is kept for as long as the servers keep theirs: what
    is sent as the other side closes would look like a failure. The loops see to it that nobody waits forever."""
    limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS)
    return httpx.AsyncClient(base_url=url, timeout=None, limits=limits)
