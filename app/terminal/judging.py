"""`winnow judge` at work: questions are searched for in every way, the finds pooled, and labels read back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.errors import NotInstalled
from app.files.kinds import kind_of
from app.files.readers import converter
from app.files.types import Unreadable
from app.quality import judge, label_page, labels, questions
from app.quality.blend import SECOND
from app.quality.first_stages import RERANKED, first_stages
from app.quality.judge import Unlabelled
from app.quality.labels import Row
from app.quality.pipeline import check, runs
from app.quality.types import Dataset, Query, Run
from app.quality.variants import Setup, vary
from app.service.files import File, document_of, read_file
from app.settings import Settings
from app.terminal import sources
from app.terminal.bench import as_failures, check_extra, opened
from app.terminal.client import UNUSABLE, Failure, stderr
from app.terminal.sources import Source
from app.types import Document

NAMED = 20
WRITTEN = {"corpus.jsonl", "queries.jsonl", "qrels"}
"""What a dataset folder may hold already, to be written anew."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be pooled and where it goes."""

    questions: Path
    corpus: Sequence[Path]
    output: Path
    html: Path | None
    depth: int
    seed: int
    base: Setup
    variants: Sequence[str]
    cache: Path | None


def pool(order: Order, settings: Settings) -> None:
    """Search in every way, and add what is found to the file."""
    check_extra()
    with as_failures(order.cache):
        labels.check_name(order.output)
        old = labels.read(order.output) if order.output.exists() else []
        queries = questions.read(order.questions)
        documents = _documents(order.corpus)
        judge.check_ids([*(query.id for query in queries), *documents])
        setups = [order.base, *(vary(order.base, text) for text in order.variants)]
        _announce(queries, len(documents), setups, order.depth)
        runs = _runs(queries, documents.values(), setups, order, settings)
        every = judge.merge(old, judge.rows(queries, documents, judge.pool(runs, order.depth)), order.seed)
        _write(every, order)
    _report(old, every, order)
    _doubt(old, documents)


def read(path: Path, corpus: Sequence[Path], output: Path, unlabelled: Unlabelled) -> None:
    """Labels to a dataset."""
    with as_failures():
        every = labels.read(path)
        documents = _documents(corpus)
        judge.check(every, documents, unlabelled)
        _check_folder(output)
        judge.save(output, documents.values(), every, unlabelled)
    _doubt(every, documents)
    waiting = sum(row.relevance is None for row in every)
    treated = "count as 0" if unlabelled == "zero" else "are left out"
    _print(f"{output}: {len(documents):,} documents, {_labelled(every)}.")
    if waiting:
        _print(f"{waiting:,} rows have no label and {treated}.")
    _print(f"Next: winnow evaluate {output}")


def status(path: Path) -> None:
    """How far the labelling is."""
    with as_failures():
        every = labels.read(path)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("question", overflow="fold")
    for name in ("rows", "labelled", "relevant"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in judge.progress(every):
        table.add_row(Text(each.query.text), *(f"{count:,}" for count in (each.rows, each.labelled, each.relevant)))
    Console(highlight=False).print(table)
    _print(f"{_labelled(every)}. {judge.effort(sum(row.relevance is None for row in every))}.")


def _runs(
    queries: Sequence[Query], documents: Iterable[Document], setups: Sequence[Setup], order: Order, settings: Settings
) -> Iterator[Run]:
    """What `winnow evaluate` would measure, with nothing to measure it by yet."""
    dataset = Dataset("pool", "none", tuple(documents), tuple(queries), {query.id: {} for query in queries})
    with opened(settings, order.cache) as bench:
        for setup in setups:
            check(setup, bench)
        for setup in setups:
            yield from runs(dataset, setup, bench)


def _announce(queries: Sequence[Query], documents: int, setups: Sequence[Setup], depth: int) -> None:
    first = sum(len(first_stages(sparse=bool(setup.sparse))) for setup in setups)
    ways = first + len(RERANKED) * sum(len(SECOND) + setup.late for setup in setups)
    least = len(queries) * min(depth, documents)
    most = len(queries) * min(depth * ways, documents)
    stderr.print(
        f"{len(queries):,} questions, {documents:,} documents, up to {ways} ways to search: the first {depth} of each "
        f"are {least:,} to {most:,} rows to label.",
        soft_wrap=True,
    )


def _documents(paths: Sequence[Path]) -> dict[str, Document]:
    """All that `winnow ingest` would take from these paths; labels need every one of them to have an id."""
    found, faults = dict[str, Document](), list[str]()
    for place, document in _found(paths):
        if isinstance(document, Document) and document.id not in found:
            found[document.id] = document
        else:
            fault = document if isinstance(document, str) else f"has the id {document.id!r}, which was there before"
            faults.append(f"{place} {fault}")
    if faults:
        more = [f"… and {len(faults) - NAMED:,} more"] if len(faults) > NAMED else []
        raise Failure("\n".join([*faults[:NAMED], *more]), UNUSABLE)
    if not found:
        raise Failure("There are no documents: name files that winnow ingest takes, or folders of them.", UNUSABLE)
    return found


def _found(paths: Sequence[Path]) -> Iterator[tuple[str, Document | str]]:
    """Each place with its document, or with what is wrong there."""
    try:
        found = sources.find(paths).sources
    except sources.Unusable as error:
        raise Failure(str(error), UNUSABLE) from error
    for batch in sources.batches(source for source in found if not source.is_file):
        yield from ((record.place, record.fault or _document(record.line)) for record in (*batch.good, *batch.bad))
    yield from asyncio.run(_files([source for source in found if source.is_file]))


async def _files(found: Sequence[Source]) -> list[tuple[str, Document | str]]:
    """Files as the service would read them, with its limits."""
    settings = Settings()
    with ThreadPoolExecutor(1) as threads:
        return [(source.name, await _file(source, settings, threads)) for source in found]


async def _file(source: Source, settings: Settings, threads: Executor) -> Document | str:
    try:
        kind = kind_of(source.name)
        converter(kind)
        with source.path.open("rb") as content:
            file = File(source.name, kind, content)
            return document_of(file, "", await read_file(file, settings, threads), {})
    except (Unreadable, NotInstalled) as error:
        return str(error)
    except OSError as error:
        return f"can't be read: {error.strerror}"


def _document(line: bytes) -> Document | str:
    """The document, or what is wrong with it."""
    fields: dict[str, Any] = orjson.loads(line)
    for name in ("id", "text", "title"):
        if not isinstance(fields.setdefault(name, ""), str):
            return f"has a {name} that is not a string"
    if not fields["id"]:
        return "has no id: give it one, for labels to name it by"
    if not (text := fields["text"] if fields["text"].strip() else fields["title"]).strip():
        return "has no text: remove it, or write it"
    return Document(fields["id"], text, fields["title"] if text is fields["text"] else "")


def _write(every: Sequence[Row], order: Order) -> None:
    for path in filter(None, (order.output, order.html)):
        path.parent.mkdir(parents=True, exist_ok=True)
    labels.write(order.output, every)
    if order.html:
        order.html.write_text(label_page.render(every, order.output), "utf-8")


def _report(old: Sequence[Row], every: Sequence[Row], order: Order) -> None:
    waiting = sum(row.relevance is None for row in every)
    kept = f", {len(every) - len(old):,} of them new, and every label kept" if old else ""
    _print(f"{order.output}: {len(every):,} rows{kept}.")
    _print(f"{judge.effort(waiting)}: {'; '.join(f'{grade} {means}' for grade, means in labels.GRADES.items())}.")
    if order.html:
        _print(f"{order.html}: the same to label in a browser.")


def _doubt(labelled: Sequence[Row], documents: Mapping[str, Document]) -> None:
    """Name labels that nobody may have given to the texts that there are now."""
    if found := judge.changed(labelled, documents):
        names = sorted({row.document for row in found})
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        told = f"{len(found):,} labels are of documents that read otherwise by now: look at them again: "
        told += ", ".join(map(repr, names[:NAMED])) + more
        stderr.print(f"[yellow]{escape(told)}[/]", soft_wrap=True)


def _labelled(every: Sequence[Row]) -> str:
    done = [row.relevance for row in every if row.relevance is not None]
    return f"{len(done):,} of {len(every):,} rows are labelled, {sum(grade > 0 for grade in done):,} of them relevant"


def _check_folder(folder: Path) -> None:
    if folder.exists() and (strange := sorted({each.name for each in folder.iterdir()} - WRITTEN)):
        raise Failure(f"{folder} holds {strange[0]}, which is not of a dataset: name a new folder.", UNUSABLE)


def _print(told: str) -> None:
    Console(highlight=False).print(escape(told), soft_wrap=True)
