"""The threads for all models of a device, and what is done when one hangs or ends.

A thread that hangs can't be ended from outside. Those who wait for it are told, so that nobody waits for ever, and
whoever comes is told too; if it comes back after all, the device goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from threading import Condition, Event, Thread
from time import perf_counter
from traceback import format_stack
from typing import Protocol

import structlog

from app.batch import Batch, Call, Lane
from app.errors import Unavailable
from models.types import Grain

log = structlog.get_logger()

SLOWER = 10.0
"""So many times what its model's rate lets one expect a batch may take: a busy machine, one that swaps."""

PAUSE = 0.02
"""Seconds that a search which will ask for a model is waited for, once a thread is free: from its question's vector to
its candidates it takes half of that, from one of its waves to the next a tenth."""

LOST = Event()
"""Set once an extension has ended a thread, which Python takes to live on: asked where its threads are, it would read a
stack that is no more, and the process would end."""

FIRST = 6.0
"""So many times the usual patience for a model's first batch: caches are cold, kernels are compiled."""

TASKS = Path("/proc/self/task")
"""The threads of this process as Linux knows them."""


class Lines(Protocol):
    """What waits for one model, as its device sees it."""

    name: str
    grain: Grain
    warm: bool
    """Whether it has computed a batch."""

    def waiting_since(self, lane: Lane) -> float: ...

    def next_batch(self, lane: Lane) -> Batch: ...

    def expects(self, batch: Batch) -> float: ...

    def compute(self, batch: Batch) -> None: ...

    def settle(self, batch: Batch, error: Exception | None) -> None: ...

    def strand(self) -> list[Call]: ...


@dataclass(slots=True)
class Work:
    """A batch that is being computed."""

    lines: Lines
    batch: Batch
    patience: float
    """Seconds after which it is taken to hang."""
    age: float | None = None
    """Seconds that the watchdog has watched it; None before its first look."""
    began: float = field(default_factory=perf_counter)

    @property
    def left(self) -> float:
        """Seconds that it should still take."""
        return max(self.began + self.lines.expects(self.batch) - perf_counter(), 0.0)

    @property
    def overdue(self) -> float:
        """Seconds beyond patience; none or fewer while there is some left."""
        return (self.age or 0.0) - self.patience

    def __str__(self) -> str:
        batch, model = self.batch, self.lines.name
        return f"{model} has worked for {self.age or 0:.0f} s on a batch of {batch.count} texts, {batch.tokens} tokens"


@dataclass(slots=True, eq=False)
class Worker:
    """A thread that computes one batch after the other."""

    thread: Thread = field(init=False)
    work: Work | None = None


class Device:
    """Has as many threads as one of its models may have batches at once. Models that compute several, each on cores of
    its own, do so side by side; the others alone, for two that take all cores would fight for them."""

    def __init__(self, name: str, bulk_share: float, patience: float) -> None:
        self.name = name
        self.changed = Condition()
        self.closed = False
        self._patience = patience
        self._models: list[Lines] = []
        self._gain = bulk_share / (1 - bulk_share)
        self._saved = self._price = 0.0
        """Model time that searches owe to ingest, and what an ingest batch costs."""
        self._expected, self._free = 0, -inf
        """Searches that will ask, or ask again, and when a thread ended a batch."""
        self._workers: list[Worker] = []

    def add(self, lines: Lines) -> None:
        with self.changed:
            self._models.append(lines)
            while len(self._workers) < lines.grain.most:
                self._workers.append(self._begin())

    def close(self) -> None:
        """Let the running batch end, turn away all who wait, and stop; a thread that hangs is left behind."""
        with self.changed:
            self.closed = True
            self._turn_away(Unavailable("The service is stopping."))
            self.changed.notify_all()
        for worker in self._workers:
            work = worker.work
            worker.thread.join(max(-work.overdue, 0.0) if work else self._patience)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a search is under way, no batch of ingest slips in before what it asks for, first or next."""
        with self.changed:
            self._expected += 1
        try:
            yield
        finally:
            with self.changed:
                self._expected -= 1
                self.changed.notify()

    def check_open(self) -> None:
        if self.closed:
            raise Unavailable("The service is stopping.")
        if trouble := self.trouble:
            raise Unavailable(f"The model does not answer: {trouble}.")

    @property
    def work(self) -> Work | None:
        """The batch that is the most overdue, or the least far from it."""
        under_way = [work for worker in self._workers if (work := worker.work)]
        return max(under_way, key=lambda work: work.overdue, default=None)

    @property
    def busy_for(self) -> float:
        """Seconds until what is computed just now is done, shared among those that compute at once."""
        return sum(work.left / work.lines.grain.abreast for worker in self._workers if (work := worker.work))

    @property
    def trouble(self) -> str | None:
        """What hangs, if something does."""
        work = self.work
        return str(work) if work and work.overdue > 0 else None

    def watch(self, seconds: float) -> int:
        """Take note that so much time has passed, and of what came of it; says how many threads were replaced."""
        with self.changed:
            if self.closed:
                return 0
            ended = [worker for worker in self._workers if not _lives(worker.thread)]
            for worker in ended:
                self._replace(worker)
            for worker in self._workers:
                if worker.work:
                    self._wait_for(worker.work, worker.thread, seconds)
            return len(ended)

    def _wait_for(self, work: Work, thread: Thread, seconds: float) -> None:
        hung, work.age = work.overdue > 0, 0.0 if work.age is None else work.age + seconds
        if work.overdue > 0 and not hung:
            log.error("a model hangs", device=self.name, what=str(work), stack=stack_of(thread.ident))
            error = Unavailable(f"The model does not answer: {work}.")
            work.lines.settle(work.batch, error)
            self._turn_away(error)

    def _replace(self, worker: Worker) -> None:
        """The thread has ended, by an error of ours or by an extension; nobody will finish its batch."""
        work = worker.work
        if worker.thread.is_alive():
            LOST.set()
        log.error("a compute thread ended and is replaced", device=self.name, what=str(work) if work else None)
        if work:
            work.lines.settle(work.batch, Unavailable(f"The thread of the model has ended: {work}."))
        self._workers[self._workers.index(worker)] = self._begin()

    def _turn_away(self, error: Exception) -> None:
        """Tell all who wait for a batch."""
        for call in [call for lines in self._models for call in lines.strand()]:
            call.wake(error)

    def _begin(self) -> Worker:
        worker = Worker()
        worker.thread = Thread(target=self._run, args=(worker,), name=f"device-{self.name}", daemon=True)
        worker.thread.start()
        return worker

    def _run(self, worker: Worker) -> None:
        while self._run_once(worker):
            pass

    def _run_once(self, worker: Worker) -> bool:
        """A function of its own, so that a device at rest holds on to no caller's texts."""
        with self.changed:
            while (choice := self._choose()) is None:
                if self.closed:
                    return False
                self.changed.wait(PAUSE if self._expected else None)
            lines, lane, contended = choice
            batch = lines.next_batch(lane)
            worker.work = Work(lines, batch, self._allowed(lines, batch))
            self.changed.notify()  # there may be more for the next thread
        began = perf_counter()
        lines.compute(batch)
        with self.changed:
            worker.work, self._free = None, perf_counter()
            self._charge(lane, self._free - began, contended)
        return True

    def _allowed(self, lines: Lines, batch: Batch) -> float:
        return max(self._patience * (1 if lines.warm else FIRST), SLOWER * lines.expects(batch))

    def _charge(self, lane: Lane, seconds: float, contended: bool) -> None:
        """Keep the share of ingest; a batch that had no rival shows that searches do pause, and starts it anew."""
        if lane == "ingest":
            self._price = seconds
        gain = seconds * self._gain if lane == "search" else -seconds
        self._saved = self._saved + gain if contended else 0.0

    def _choose(self) -> tuple[Lines, Lane, bool] | None:
        """Whose batch is next, in which lane, and whether the other lane waits for it."""
        search, ingest = self._oldest("search"), self._oldest("ingest")
        wanted = search is not None or (self._expected > 0 and self._may_come())
        if ingest and (not wanted or 0 < self._saved >= self._price * (1 + self._under_way("ingest"))):
            return (ingest, "ingest", wanted) if self._has_room(ingest) else None
        return (search, "search", ingest is not None) if search and self._has_room(search) else None

    def _may_come(self) -> bool:
        """Whether a search is computed, or anything was a moment ago: one that comes and asks for nothing is not waited
        for."""
        return self._under_way("search") > 0 or perf_counter() < self._free + PAUSE

    def given(self, lines: Lines) -> int:
        """Batches that a model has just now, one that lies ready included."""
        return [work.lines for worker in self._workers if (work := worker.work)].count(lines)

    def _under_way(self, lane: Lane) -> int:
        return sum(worker.work is not None and worker.work.batch.lane == lane for worker in self._workers)

    def _oldest(self, lane: Lane) -> Lines | None:
        first = min(self._models, key=lambda lines: lines.waiting_since(lane), default=None)
        return first if first and first.waiting_since(lane) < inf else None

    def _has_room(self, lines: Lines) -> bool:
        """Whether it may begin beside what is computed: one that takes all cores for a batch has them for itself."""
        busy = [worker.work.lines for worker in self._workers if worker.work]
        alone = any(each.grain.abreast == 1 for each in [lines, *busy])
        return not (busy and alone) and self.given(lines) < lines.grain.most


def stack_of(thread: int | None) -> str:
    """Where a thread is, if that can be told: names of functions and lines, nothing of what they work on."""
    if LOST.is_set():
        return ""
    frame = sys._current_frames().get(thread or 0)
    return "".join(format_stack(frame)) if frame else ""


def _lives(thread: Thread) -> bool:
    """Python takes a thread that an extension ended to live on; the system knows better."""
    return thread.is_alive() and (not TASKS.is_dir() or (TASKS / str(thread.native_id)).is_dir())
