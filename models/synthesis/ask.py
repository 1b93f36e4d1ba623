"""Asks for the questions of many passages at once and writes each answer down as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from models.synthesis.chat import Chat, Reply
from models.synthesis.corpus import fingerprint
from models.synthesis.cost import CostReached, Meter, guess
from models.synthesis.journal import Journal, Record
from models.synthesis.prompt import Prompt
from models.synthesis.questions import Malformed, parse
from models.synthesis.types import NOTHING, CalledOff, Failed, Stop
from models.training.pairs import Passage

MALFORMED_ATTEMPTS = 3
FAILURES_IN_A_ROW = 10
CUT = " (a limit of tokens cut it: raise that in --options)"


@dataclass(slots=True)
class Asking:
    """One run: passages go out, records come in."""

    chat: Chat
    prompt: Prompt
    journal: Journal
    meter: Meter
    watch: Callable[[], None] = lambda: None
    """Called after each passage."""
    stopped: str = ""
    """Why the run ended before its last passage, if it did."""
    uncounted: int = 0
    """Answers whose tokens the server did not count."""
    _in_a_row: int = 0
    _broken: Exception | None = None

    async def run(self, passages: Sequence[Passage], at_once: int) -> None:
        """All of them, so many at once, until further requests make no sense; what is then under way is awaited, and so
        it is when the run is cancelled: it is paid for. Cancelled twice, it gives up at once."""
        self.chat.proven = bool(self.journal.answered)
        waiting = iter(passages)
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(at_once)]
        try:
            await self._awaited(workers)
        finally:
            for each in workers:
                each.cancel()
        if self._broken:
            raise self._broken

    async def _awaited(self, workers: Sequence[asyncio.Task[None]]) -> None:
        try:
            await asyncio.wait(workers)
        except asyncio.CancelledError:
            self.chat.end(
                "Waiting for answers that are under way, since they are paid for. Ctrl-C again gives them up."
            )
            await asyncio.wait(workers)
            raise

    async def _work(self, waiting: Iterator[Passage]) -> None:
        for passage in waiting:
            try:
                await self._write_down(passage)
            except CostReached:
                self.stopped = "The next request might exceed --max-cost: raise it to go on."
            except CalledOff:
                return
            except Exception as error:  # raised when all others have ended
                self._broken = self._broken or error
                self.chat.end()
            if self.stopped or self._broken:
                return

    async def _write_down(self, passage: Passage) -> None:
        """What becomes of a passage, with what all attempts at it took, be they cut short."""
        key, spent, trouble = fingerprint(passage), NOTHING, ""
        for _ in range(MALFORMED_ATTEMPTS):
            try:
                reply = await self._ask(self.prompt.fill(passage))
                spent += reply.usage
                self._take(Record(key, passage.id, parse(reply.text), spent))
                return
            except Malformed as malformed:
                trouble = f"{malformed}{CUT if reply.cut else ''}"
            except Failed as failure:
                trouble = str(failure)
                break
            except (CostReached, CalledOff, Stop):
                if spent.total:
                    self._take(Record(key, passage.id, usage=spent, error=trouble))
                raise
        self._take(Record(key, passage.id, usage=spent, error=trouble))

    async def _ask(self, prompt: str) -> Reply:
        first = guess(prompt, self.prompt.count)
        async with self.meter.reserve(first) as expected:
            reply = await self.chat.ask(prompt, expected.total)
            self.meter.spend(first, reply.usage)
        self.uncounted += not reply.counted
        return reply

    def _take(self, record: Record) -> None:
        self.journal.add(record)
        self._in_a_row = self._in_a_row + 1 if record.error else 0
        if self._in_a_row >= FAILURES_IN_A_ROW:
            self.stopped = f"{self._in_a_row} passages in a row failed, the last because {record.error}."
        self.watch()
