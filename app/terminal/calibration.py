"""One `winnow calibrate` under way: labelled queries are asked, a calibration is fitted, measured, told and kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar
from urllib.parse import quote

import orjson
import typer
from rich.console import Console

from app.quality.calibrate import Asked, Basis, Findings, Question, asked, calibrate
from app.quality.dataset import read, unanswerable
from app.quality.reliability_page import render
from app.quality.types import Query
from app.terminal import reliability
from app.terminal.asking import bounded, holds, say
from app.terminal.bench import as_failures, check_extra, check_writable, track, write
from app.terminal.client import UNUSABLE, Client, Failure, Target, connect, read_json
from app.terminal.kept import keep, place
from app.types import Calibration, Fusion, Mode
from models.types import Blend

Done = TypeVar("Done")

Labels = list[tuple[Query, Mapping[str, int]]]
"""Queries, and what was judged of each."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be calibrated, with what, and where the result goes."""

    folder: Path
    split: str
    queries: int | None
    seed: int
    collection: str
    mode: Mode | None
    """None: as the service searches when nothing is said."""
    candidates: int
    unjudged: bool
    judged_only: bool
    keeps: bool
    output: Path | None
    html: Path | None
    as_json: bool


def run(order: Order, target: Target) -> None:
    """All of it; whatever a user can have got wrong ends it with a sentence."""
    check_extra()
    check_writable(order.output, order.html)
    with as_failures():
        asyncio.run(_run(order, target))


async def _run(order: Order, target: Target) -> None:
    labels = _labels(order)
    async with connect(target) as client:
        basis = await _basis(client, order)
        questions = await _questions(client, order, labels)
        every = await _ask(client, order, basis, questions)
        found, findings = await asyncio.to_thread(calibrate, every, basis, order.candidates, order.seed)
        _tell(order, found, findings)
        if order.keeps:
            await keep(client, order.collection, orjson.loads(orjson.dumps(found)), quiet=order.as_json)


def _labels(order: Order) -> Labels:
    """All queries, or so many of them at random."""
    dataset = read(order.folder, order.split)
    labels: Labels = [(query, dataset.judgements[query.id]) for query in dataset.queries]
    labels += unanswerable(order.folder, order.split, unjudged=order.unjudged)
    if order.queries is None or order.queries >= len(labels):
        return labels
    return Random(order.seed).sample(labels, order.queries)


async def _basis(client: Client, order: Order) -> Basis:
    known = await client.get(place(order.collection))
    facts = await client.get(f"/collections/{quote(order.collection, safe='')}")
    mode: Mode = order.mode or known["mode"]
    kind = "dense" if mode == "dense" else "hybrid"
    return Basis(
        collection=order.collection,
        mode=mode,
        encoder=known["encoder"],
        reranker=known["reranker"],
        sparse=known["sparse"],
        reranker_name=facts["reranker"],
        late=known["late"],
        blend=Blend(**known["blends"][kind]),
        unreranked=Blend(**known["late_blends"][kind]) if known["late"] and mode in ("dense", "hybrid") else None,
        fusion=Fusion(**known["fusion"]),
    )


async def _questions(client: Client, order: Order, labels: Labels) -> list[Question]:
    """With how many of its relevant documents the collection holds."""
    relevant = [[name for name, grade in grades.items() if grade > 0] for _, grades in labels]
    wanted = list(dict.fromkeys(name for names in relevant for name in names))
    with track("look for documents", len(wanted)) as advance:
        found = await bounded(lambda name: _counted(holds(client, order.collection, name), advance), wanted)
    held = Counter(name for name, there in zip(wanted, found, strict=True) if there)
    if not held:
        raise Failure(
            f"Collection '{order.collection}' holds none of the relevant documents of {order.folder}. "
            f"Ingest them first: winnow ingest {order.folder / 'corpus.jsonl'} --collection {order.collection}",
            UNUSABLE,
        )
    return [
        Question(query, grades, sum(held[name] for name in names))
        for (query, grades), names in zip(labels, relevant, strict=True)
    ]


async def _ask(client: Client, order: Order, basis: Basis, questions: Sequence[Question]) -> list[Asked]:
    """What every stage thinks of every candidate; asked in the one way that no calibration changes."""

    async def one(question: Question) -> Asked:
        body = {
            "query": question.query.text,
            "collection": order.collection,
            "mode": basis.mode,
            "top_k": order.candidates,
            "candidates": order.candidates,
            "rerank": True,
            "include": ["stages"],
        }
        answer = read_json(await client.patiently("POST", "/search", say, json=body))
        return asked(question, answer, basis, judged_only=order.judged_only)

    with track("ask", len(questions)) as advance:
        return await bounded(lambda question: _counted(one(question), advance), questions)


async def _counted(work: Awaitable[Done], advance: Callable[[int], object]) -> Done:
    done = await work
    advance(1)
    return done


def _tell(order: Order, found: Calibration, findings: Findings) -> None:
    if order.output:
        write(order.output, orjson.dumps(found, option=orjson.OPT_INDENT_2))
    if order.html:
        write(order.html, render(order.collection, [(found, findings)]).encode())
    if order.as_json:
        typer.echo(orjson.dumps(found).decode())
    else:
        Console(highlight=False).print(reliability.findings(findings, order.collection, found))
