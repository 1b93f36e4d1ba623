"""What Winnow does at its limits: `python -m loadtest.limits`. Some ten minutes, on a machine that does nothing else.

    floor       pairs and passages a second, beside a bare loop over the same compiled models and the same tokens
    overload    five times what it can do: how soon the refused are told, and how long the others wait
    deadlines   a thousand searches that must be answered in 100 ms, among others that need not, while documents come in

The service is started by the script, with the embedded models and default settings, but for the memory of questions.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import httpx
import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from loadtest.lineup import CANDIDATES, LINEUP, interpreter
from loadtest.load import Ask, Failed, Load, Refused, closed_loop, open_loop
from loadtest.machine import this_machine
from loadtest.passages import Passage, passages, questions
from loadtest.service import free_port, running
from models.catalog import open_encoder, open_reranker

PATIENCE = 300.0
SHARE, OVERLOAD = 0.8, 5.0
"""Of the most that the service can do, as arrivals."""
DEADLINE_MS = 100
BESIDE = 0.3
"""Searches without a deadline, as a share of the most that the service can do."""
TRICKLE = 2.0
"""Documents a second that come in beside searches with a deadline."""
TOLD = 0.05
"""Seconds in which a refusal is to arrive."""
AT_ONCE, AT_A_TIME = 64, 100
"""Passages that the bare encoder is given, and that the service is sent."""


@dataclass(frozen=True, slots=True)
class Service:
    """Winnow, running, and questions without end."""

    client: httpx.AsyncClient
    asked: Iterator[str]

    def asker(self, told: Callable[[dict[str, object]], str], **fields: object) -> Ask:
        """Notes of each answer what `told` makes of it."""

        async def ask(query: str) -> list[str]:
            answer = await self.client.post("/search", json={"query": query, "candidates": CANDIDATES, **fields})
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise Refused(float(answer.headers["retry-after"]))
            if not answer.is_success:
                raise Failed(f"{answer.status_code}: {answer.text[:200]}")
            return [told(answer.json())]

        return ask

    async def closed(self, clients: int, seconds: float) -> Load:
        return await closed_loop(self.asker(_amount), self.asked, clients, seconds, PATIENCE)

    async def opened(self, rate: float, seconds: float) -> Load:
        return await open_loop(self.asker(_amount), self.asked, rate, seconds, PATIENCE, evenly=False)

    async def ingest(self, documents: Sequence[Passage]) -> float:
        """Passages a second until all can be found, by the answers: to ask over and over would slow it down."""
        sent = [{"id": each.id, "text": each.text} for each in documents]
        parts = [{"documents": sent[start : start + AT_A_TIME]} for start in range(0, len(sent), AT_A_TIME)]
        began = perf_counter()
        answers = await asyncio.gather(*(self.client.post("/ingest", json=part) for part in parts))
        seconds = perf_counter() - began
        if any(answer.status_code != httpx.codes.OK for answer in answers):
            raise Failed(f"not all can be found: {[answer.status_code for answer in answers]}")
        return len(documents) / seconds

    async def reranked_tokens(self) -> float:
        """That were computed since the start, padding included."""
        families = text_string_to_metric_families((await self.client.get("/metrics")).text)
        samples = [each for family in families for each in family.samples if each.name == "winnow_batch_tokens_sum"]
        return sum(each.value for each in samples if each.labels["model"].startswith("reranker"))


class Bare:
    """The same models in a loop, with nothing around them."""

    def __init__(self, held: Sequence[Passage]) -> None:
        self._held = held
        self._encoder, self._reranker = open_encoder("embedded"), open_reranker("embedded")

    def encode(self) -> float:
        """Passages a second."""
        began = perf_counter()
        tokens = sorted(self._encoder.tokenize([each.text for each in self._held], "document"), key=len)
        for start in range(0, len(tokens), AT_ONCE):
            self._encoder.encode(tokens[start : start + AT_ONCE])
        return len(tokens) / (perf_counter() - began)

    def rerank(self, asked: Sequence[str], seconds: float) -> float:
        """Pairs a second, of questions with passages as long as those that the service finds."""
        texts = [each.text for each in self._held]
        began, done = perf_counter(), 0
        for query in cycle(asked):
            start = done % (len(texts) - CANDIDATES)
            self._reranker.score(self._reranker.tokenize(query, texts[start : start + CANDIDATES]))
            done += CANDIDATES
            if perf_counter() - began > seconds:
                return done / (perf_counter() - began)
        raise AssertionError("questions have no end")


async def measure_floor(service: Service, bare: Bare, held: Sequence[Passage], seconds: float) -> float:
    """Prints it; the most searches a second."""
    await service.ingest(held[:AT_A_TIME])  # what the first batches after a start cost is not asked here
    before, ours = bare.encode(), await service.ingest(held[AT_A_TIME:])
    loop = (before + bare.encode()) / 2
    print("| | bare loop | Winnow | share |\n|---|---|---|---|")
    print(f"| passages/s taken in | {loop:.1f} | {ours:.1f} | {ours / loop:.0%} |")
    await service.closed(1, 2)
    asked, best = questions(), 0.0
    for clients in (1, 8, 32):
        before, load = bare.rerank(asked, seconds / 2), await service.closed(clients, seconds)
        loop = (before + bare.rerank(asked, seconds / 2)) / 2
        rate, best = load.rate * CANDIDATES, max(best, load.rate)
        note = f"{clients} client{'s' * (clients > 1)}, {load.refusals} refusals"
        print(f"| pairs/s reranked, {note} | {loop:.1f} | {rate:.1f} | {rate / loop:.0%} |", flush=True)
    return best


async def measure_overload(service: Service, best: float, seconds: float) -> None:
    calm = await service.opened(SHARE * best, seconds)
    each = await service.reranked_tokens()
    usual = (await service.closed(1, seconds / 2)).answered
    each = (await service.reranked_tokens() - each) / usual
    before = await service.reranked_tokens()
    flood = await service.opened(OVERLOAD * best, seconds)
    spent = await service.reranked_tokens() - before
    print("\n| arrivals/s | answered | p50 ms | p99 ms | refused | told after, p99 ms |\n|---|---|---|---|---|---|")
    for rate, load in ((SHARE * best, calm), (OVERLOAD * best, flood)):
        waits = _waits(load, "answered")
        told = f"{1000 * np.percentile(_waits(load, 'refused'), 99):.0f}" if load.count("refused") else "-"
        p50, p99 = 1000 * np.percentile(waits, [50, 99])
        print(f"| {rate:.2f} | {load.answered} | {p50:.0f} | {p99:.0f} | {load.count('refused')} | {told} |")
    ratio = np.percentile(_waits(flood, "answered"), 99) / np.percentile(_waits(calm, "answered"), 99)
    prompt = np.mean(_waits(flood, "refused") <= TOLD)
    print(f"\np99 of the answered at {OVERLOAD:.0f} times the most / at {SHARE:.0%}: {ratio:.2f}.", end=" ")
    print(f"Told within {1000 * TOLD:.0f} ms: {prompt:.1%} of the refused.", end=" ")
    print(f"Tokens reranked under overload, of those that the answered take: {spent / (each * flood.answered):.0%}.")


async def measure_deadlines(service: Service, best: float, amount: int) -> None:
    urgent = service.asker(lambda answer: "late" if "degraded" in answer else "whole", deadline_ms=DEADLINE_MS)
    loads: list[Load] = []
    async with _beside(service, best):
        while sum(len(load.answers) for load in loads) < amount:
            loads.append(await closed_loop(urgent, service.asked, 1, 5, PATIENCE))
    asked = [answer for load in loads for answer in load.answers]
    answers = [answer for answer in asked if answer.outcome == "answered"]
    waits = 1000 * np.array([answer.seconds for answer in answers])
    late = np.mean([answer.found == ("late",) for answer in answers])
    p50, p99, most = np.percentile(waits, [50, 99, 100])
    print(
        f"\n{len(answers)} searches with deadline_ms={DEADLINE_MS}: p50 {p50:.0f} ms, p99 {p99:.0f}, most {most:.0f};",
        end=" ",
    )
    print(f"{np.mean(waits <= DEADLINE_MS):.1%} in time, {late:.1%} say that reranking was cut short,", end=" ")
    print(f"{sum(answer.refusals for answer in asked)} refusals, {len(asked) - len(answers)} failed.")


@asynccontextmanager
async def _beside(service: Service, best: float) -> AsyncIterator[None]:
    """Searches that are in no hurry, and documents that come in."""

    async def search() -> None:
        while True:
            await service.opened(BESIDE * best, 10)

    async def take_in() -> None:
        for number, each in enumerate(cycle(passages(500))):
            document = {"id": f"new{number % 1000}", "text": each.text}
            (await service.client.post("/ingest", json={"documents": [document], "wait": False})).raise_for_status()
            await asyncio.sleep(1 / TRICKLE)

    tasks = [asyncio.create_task(search()), asyncio.create_task(take_in())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
    if failures:
        raise ExceptionGroup(
            "what ran beside ended by itself", [each for each in failures if isinstance(each, Exception)]
        )


def _amount(answer: dict[str, object]) -> str:
    return str(answer["reranked"])


def _waits(load: Load, outcome: str) -> NDArray[np.float64]:
    return np.array([answer.seconds for answer in load.answers if answer.outcome == outcome])


async def measure(port: int, given: argparse.Namespace) -> None:
    held = passages(given.documents)
    bare = await asyncio.to_thread(Bare, held)
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None, limits=limits) as client:
        service = Service(client, cycle(questions()))
        best = await measure_floor(service, bare, held, given.seconds)
        await measure_overload(service, best, 2 * given.seconds)
        await measure_deadlines(service, best, given.deadlines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=600, help="passages to search")
    parser.add_argument("--seconds", type=float, default=30, help="length of a load; twice that under overload")
    parser.add_argument("--deadlines", type=int, default=1000, help="searches with a deadline")
    given = parser.parse_args()
    if given.documents <= AT_A_TIME:
        parser.error(f"--documents: the first {AT_A_TIME} only warm the service up, so name more")
    machine = this_machine()
    print(f"{machine.processor}, {machine.cores} cores, commit {machine.commit}, load average {machine.load_average}\n")
    peer, port = LINEUP["winnow-all"], free_port()
    with TemporaryDirectory() as folder:
        commands = peer.commands(interpreter(peer, Path), Path(folder), port)
        with running(commands, Path(folder), Path(folder) / "winnow.log"):
            asyncio.run(measure(port, given))


if __name__ == "__main__":
    main()
