"""`winnow check`: the truth against every index, of a service that runs or of a data folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event, Thread
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.service.findings import Report
from app.service.stopped_check import check_folder
from app.settings import Settings
from app.stores.data_dir import DATABASE
from app.terminal.bench import as_failures
from app.terminal.client import REFUSED, UNUSABLE, Failure, Target, connect, read_json, read_settings, stderr
from app.terminal.options import DataDir, Url

POLL_SECONDS = 0.2

UNREPAIRABLE = ("database", "documents")

Told = dict[str, Any]


def check(
    repair: Annotated[bool, typer.Option("--repair", help="Build damaged indexes anew from the database.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Hold the database and every index against each other, and say what is wrong.

    The database: its file, its references, whether documents have their chunks and chunks their vectors. Every index:
    its files, and whether it holds each searchable chunk once, with its vector, words or terms, and nothing else. The
    exit code is 1 where something is wrong that was not repaired. A running service goes on searching meanwhile.

    \b
    winnow check --url http://localhost:8000
    winnow check --data-dir /var/lib/winnow --repair             # of a service that is stopped
    """
    target = Target(url, data_dir)
    with as_failures():
        told = (
            asyncio.run(_ask(target, repair=repair))
            if target.address()
            else _look(read_settings(data_dir=data_dir), repair=repair)
        )
    _name(told)
    if told["error"]:
        raise Failure(f"The check did not come to its end: {told['error']}", REFUSED)
    _conclude(told)
    if any(not each["repaired"] for each in told["findings"]):
        raise typer.Exit(REFUSED)


async def _ask(target: Target, *, repair: bool) -> Told:
    """Begin, and follow to the end."""
    async with connect(target) as client:
        told: Told = read_json(await client.ask("POST", "/check", json={"repair": repair}))
        with _bar() as show:
            while told["state"] == "running":
                show(*(told["progress"][each] for each in ("what", "done", "total")))
                await asyncio.sleep(POLL_SECONDS)
                told = await client.get("/check")
    return told


def _look(settings: Settings, *, repair: bool) -> Told:
    """In this process, without opening the service: a start would mend some of it, and nobody would know."""
    if not (settings.data_dir / DATABASE).exists():
        raise Failure(f"There is no data in {settings.data_dir.resolve()}: name another with --data-dir.", UNUSABLE)
    report = Report(repairs=repair)
    with _bar() as show, _watching(lambda: show(report.what, report.done, report.total)):
        check_folder(settings, report)
    return asdict(report)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], object]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=escape(what), completed=done, total=total or None)

        yield show


@contextmanager
def _watching(show: Callable[[], object]) -> Iterator[None]:
    """Show again and again while something else is done."""
    done = Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            show()

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _name(told: Told) -> None:
    for each in told["findings"]:
        where = f"{each['collection']}: " if each["collection"] else ""
        chunks = f" (chunks {', '.join(map(str, each['chunks']))} …)" if each["chunks"] else ""
        mark = "[green]repaired[/]" if each["repaired"] else "[red]wrong[/]"
        _say(f"{mark} {escape(where + each['problem'] + chunks)}")


def _conclude(told: Told) -> None:
    counts = f"{told['chunks']:,} chunks compared with their indexes"
    left = [each for each in told["findings"] if not each["repaired"]]
    _say(f"{counts}: {f'wrong: {len(left):,}' if left else 'all is well'}.")
    if any(each["part"] in UNREPAIRABLE for each in left):
        _say("What is wrong with the database can't be built anew: restore a backup, or delete and ingest again.")
    elif left and not told["repairs"]:
        _say("--repair builds the indexes anew from the database.")


def _say(line: str) -> None:
    Console(highlight=False).print(line, soft_wrap=True)
