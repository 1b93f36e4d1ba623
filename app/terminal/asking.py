"""The questions of a dataset, asked of a running service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from rich.markup import escape

from app.quality.asking import Answers, Usual, evaluation, questions
from app.quality.first_stages import TIMED
from app.quality.types import Dataset, Evaluation, Option, Query, Run
from app.quality.variants import Setup
from app.quality.workbench import Track
from app.terminal.client import Client, Failure, Refused, Target, connect, read_json, stderr
from app.terminal.kept import place

AT_ONCE = 4
"""Requests under way together: enough to keep an accelerator busy, few enough to leave others their turn."""

LIMITED = ("top_k", "candidates")
"""Of a search, what a service's settings may allow too little of."""

Heard = set[tuple[str, str]]
"""Datasets whose questions the service has had, with the encoder that embedded them."""

Item = TypeVar("Item")
Reply = TypeVar("Reply")


async def ask(
    target: Target, datasets: Sequence[Dataset], setups: Sequence[Setup], track: Track, seed: int
) -> list[tuple[Evaluation, list[Run]]]:
    """Every dataset with every setup, over one connection."""
    heard: Heard = set()
    async with connect(target) as client:
        return [
            await _Inquiry(client, dataset, setup, track, heard).run(seed) for dataset in datasets for setup in setups
        ]


class _Inquiry:
    """One dataset, asked of one collection."""

    def __init__(self, client: Client, dataset: Dataset, setup: Setup, track: Track, heard: Heard) -> None:
        self._client = client
        self._heard = heard
        self._dataset = dataset
        self._setup = setup
        self._track = track

    async def run(self, seed: int) -> tuple[Evaluation, list[Run]]:
        facts = await self._client.get(f"/collections/{quote(str(self._setup.collection), safe='')}")
        late = bool(facts["late"]) and self._setup.late
        self._setup = replace(self._setup, sparse=facts["sparse"] or "", late=late)
        usual = await self._usual(facts)
        notes = [*await self._missing(), *_unlike(facts, self._dataset), *self._remembered(facts["encoder"])]
        answers = await self._answers(usual)
        return evaluation(self._dataset, self._setup, answers, _settings(facts, self._setup), notes, seed)

    async def _usual(self, facts: dict[str, Any]) -> Usual:
        """What holds for searches that do not say: the mode of the service, and what labels taught about reranking."""
        mode = (await self._client.get(place(str(self._setup.collection))))["mode"]
        known = [each for each in facts["calibrations"] if each["mode"] == mode and not each["trouble"]]
        compares = self._setup.late or not facts["late"]  # without its tokens no calibration of the collection holds
        return Usual(mode, all(each["rerank"] for each in known) or not compares)

    def _remembered(self, encoder: str) -> list[str]:
        """What the clock does not show, where the same encoder has had the same questions a moment ago."""
        if (asked := (self._dataset.name, encoder)) not in self._heard:
            self._heard.add(asked)
            return []
        return ["The service was asked these questions before and may remember them: embed and total are less for it."]

    async def _answers(self, usual: Usual) -> Answers:
        """The first ones one at a time, for the clock; the others as fast as the service likes."""
        queries = self._dataset.queries
        with self._track(f"{self._dataset.name}: ask", len(queries)) as advance:
            alone = [await self._all(query, usual, advance) for query in queries[:TIMED]]
            others = await bounded(lambda query: self._all(query, usual, advance), queries[TIMED:])
        asked = [*alone, *others]
        first = {stage: [deep[stage] for deep, _ in asked] for stage in asked[0][0]}
        return Answers(usual, first, [second for _, second in asked], len(alone))

    async def _all(self, query: Query, usual: Usual, advance: Callable[[int], object]) -> tuple[dict[str, Any], Any]:
        first, second = questions(query, self._setup, usual)
        answer = await self._search(second)  # by the clock: behind the others the service would remember the question
        deep = {stage: await self._search(body) for stage, body in first.items()}
        advance(1)
        return deep, answer

    async def _search(self, body: dict[str, Any]) -> Any:
        try:
            return read_json(await self._client.patiently("POST", "/search", say, json=body))
        except Refused as refusal:
            if refusal.status == 422 and (limits := [each for each in LIMITED if f"/{each} " in str(refusal)]):
                raise Failure(_too_small(limits, body)) from refusal
            raise

    async def _missing(self) -> list[str]:
        """Relevant documents that the collection does not have; without any of them there is nothing to measure."""
        wanted = {name for grades in self._dataset.judgements.values() for name, grade in grades.items() if grade > 0}
        with self._track(f"{self._dataset.name}: look for documents", len(wanted)) as advance:
            held = await bounded(lambda name: self._holds(name, advance), wanted)
        missing = len(wanted) - sum(held)
        if missing == len(wanted):
            raise Failure(
                f"Collection '{self._setup.collection}' holds none of the relevant documents of {self._dataset.name}. "
                f"Ingest them first: winnow ingest corpus.jsonl --collection {self._setup.collection}"
            )
        many = f"{missing:,} of {len(wanted):,} relevant documents"
        return [f"{many} are not searchable in '{self._setup.collection}' and count as not found."] if missing else []

    async def _holds(self, document: str, advance: Callable[[int], object]) -> bool:
        try:
            return await holds(self._client, str(self._setup.collection), document)
        finally:
            advance(1)


async def holds(client: Client, collection: str, document: str) -> bool:
    """Whether a document can be found there."""
    path = f"/documents/{quote(document, safe='')}"
    try:
        found = read_json(await client.patiently("GET", path, say, params={"collection": collection}))
    except Refused as refusal:
        if refusal.status != 404:
            raise
        return False
    return bool(found["state"] == "live")


async def bounded(does: Callable[[Item], Awaitable[Reply]], items: Iterable[Item]) -> list[Reply]:
    """A few at a time, in order. When one fails, the others end with it."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Reply:
        async with turn:
            return await does(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _too_small(limits: Sequence[str], body: Mapping[str, Any]) -> str:
    """Less than that would measure something else."""
    settings = " and ".join(f"WINNOW_MAX_{each.upper()} to at least {body[each]}" for each in limits)
    return f"The service does not show as many hits in an answer as it takes to measure: raise its {settings}."


def _unlike(facts: dict[str, Any], dataset: Dataset) -> list[str]:
    held, meant = facts["documents"], len(dataset.documents)
    if held == meant:
        return []
    return [
        f"'{facts['name']}' holds {held:,} documents and {dataset.name} has {meant:,}: the numbers are of the former."
    ]


def _settings(facts: dict[str, Any], setup: Setup) -> dict[str, Option]:
    shown = {name: facts[name] for name in ("encoder", "reranker", "fingerprint", "dimensions")}
    shown |= {"sparse": setup.sparse} if setup.sparse else {}
    asked = {"collection": setup.collection, "candidates": setup.depth, "documents_held": facts["documents"]}
    return {**shown, **facts["recipe"], **asked, **{f"fusion_{name}": value for name, value in setup.fusing.items()}}


def say(message: str) -> None:
    """Tell why it takes longer."""
    stderr.print(f"[yellow]{escape(message)}[/]", soft_wrap=True)
