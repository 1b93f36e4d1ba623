"""One `winnow evaluate` under way: datasets are read, every variant is measured on each, and tables and files tell."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from app.quality import page
from app.quality.dataset import read, sample
from app.quality.measures import save, save_judgements
from app.quality.pipeline import check, evaluate
from app.quality.reporting import report
from app.quality.types import BASE, Dataset, Evaluation, Report, Run
from app.quality.variants import BadSetup, Setup, checked, depths, vary
from app.settings import Settings
from app.terminal import scoreboard
from app.terminal.asking import ask
from app.terminal.bench import as_failures, check_extra, check_writable, opened, track, write, writing
from app.terminal.client import UNUSABLE, Failure, Target
from app.types import Recipe

Found = tuple[Evaluation, list[Run]]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be evaluated and where the results go."""

    folders: Sequence[Path]
    split: str
    queries: int | None
    seed: int
    base: Setup
    variants: Sequence[str]
    cache: Path | None
    """None: nothing is kept."""
    json: Path | None = None
    html: Path | None = None
    runs: Path | None = None


def base(
    settings: Settings, chosen: Mapping[str, Any], candidates: str, collection: str | None, *, rerank: bool
) -> Setup:
    """The variant that the others are compared with: flags before settings."""
    try:
        setup = Setup(
            encoder=settings.encoder,
            reranker=settings.reranker,
            recipe=Recipe(settings.chunk_tokens, settings.overlap_tokens, chosen.get("title", "first")),
            dims=chosen.get("dims"),
            candidates=depths(candidates),
            language=chosen.get("language") or settings.language,
            mode=settings.mode,
            rerank=rerank,
            sparse="" if collection else settings.sparse,
            late=bool(collection) or settings.late,
            fusing={} if collection else asdict(settings.usual_fusion),
            collection=collection,
        )
        if collection and len(setup.candidates) > 1:
            raise BadSetup("A collection takes one number of candidates: name the others with --compare candidates=20.")
        return checked(setup)
    except BadSetup as error:
        raise Failure(str(error), UNUSABLE) from error


def run(order: Order, settings: Settings, target: Target) -> Report:
    """All of it; whatever a user can have got wrong ends it with a sentence."""
    check_extra()
    check_writable(order.json, order.html)
    with as_failures(order.cache):
        setups = [order.base, *(vary(order.base, text) for text in order.variants)]
        datasets = [_read(folder, order) for folder in order.folders]
        _check_names(datasets, setups)
        found = _evaluated(order, settings, target, datasets, setups)
    made = report([evaluation for evaluation, _ in found], order.seed)
    _conclude(made, order)
    return made


def _check_names(datasets: Sequence[Dataset], setups: Sequence[Setup]) -> None:
    """Results are told apart by them."""
    for what, names in (("datasets", [each.name for each in datasets]), ("variants", [each.name for each in setups])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadSetup(f"Two {what} have the name '{twice[0]}': results could not be told apart.")


def _read(folder: Path, order: Order) -> Dataset:
    dataset = read(folder, order.split)
    return dataset if order.queries is None else sample(dataset, order.queries, order.seed)


def _evaluated(
    order: Order, settings: Settings, target: Target, datasets: Sequence[Dataset], setups: Sequence[Setup]
) -> list[Found]:
    """By the models themselves or by a service that runs; each result is shown as soon as it is there."""
    if order.base.collection:
        found = asyncio.run(ask(target, datasets, setups, track, order.seed))
        for each in found:
            _show(each, datasets, order)
        return found
    with opened(settings, order.cache) as bench:
        for setup in setups:
            check(setup, bench)
        return [
            _show(evaluate(dataset, setup, bench, order.seed), datasets, order)
            for dataset in datasets
            for setup in setups
        ]


def _show(found: Found, datasets: Sequence[Dataset], order: Order) -> Found:
    evaluation, runs = found
    _print(scoreboard.evaluation(evaluation))
    if order.runs:
        (dataset,) = (each for each in datasets if each.name == evaluation.dataset)
        folder = order.runs / evaluation.dataset / _slug(evaluation.variant)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            save_judgements(dataset.judgements, folder)
            for each in runs:
                save(each, folder)
    return evaluation, []


def _conclude(found: Report, order: Order) -> None:
    if found.summaries or found.comparisons:
        _print(scoreboard.together(found))
    if order.json:
        write(order.json, orjson.dumps(found, option=orjson.OPT_INDENT_2))
    if order.html:
        write(order.html, page.render(found).encode())


def _slug(variant: str) -> str:
    return BASE if variant == BASE else re.sub(r"[^\w.=-]+", "-", variant)


def _print(what: object) -> None:
    Console(highlight=False).print(what)
