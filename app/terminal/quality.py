"""`winnow quality`: what a running service knows of its own answers, as tables and sentences."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import orjson
import typer
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.terminal.client import URL_VARIABLE, Target, connect, read_settings

COLOURS = {"warning": "red", "advice": "yellow", "info": "default"}

SIGNALS = {
    "top_score": "score of the best hit",
    "query_distance": "from query to nearest hit",
    "corpus_distance": "from query to corpus",
}

Answer = Mapping[str, Any]


def quality(
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="Which collection; else all.")] = None,
    refer: Annotated[
        bool, typer.Option("--refer", help="Take the searches of lately for what drift is measured by.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Address of the service (or WINNOW_URL).", show_default="that of the settings")
    ] = None,
) -> None:
    """Say how good the answers of a running service are, without labels: what its searches told, and what a second
    look at some of them showed in idle time. Every figure has its 95 % interval and how many searches it is from.

    \b
    winnow quality --url http://localhost:8000
    winnow quality --collection papers --json
    winnow quality --collection papers --refer
    """
    found = asyncio.run(_ask(Target(url or os.environ.get(URL_VARIABLE) or _usual()), collection, refer=refer))
    if as_json:
        typer.echo(orjson.dumps(found).decode())
        return
    console = Console(highlight=False)
    if not found["watching"]:
        console.print("Nobody watches: WINNOW_OBSERVE_SHARE is 0.")
    for each in found["collections"]:
        console.print(_told(each))


def _usual() -> str:
    """Where the service of these settings listens: what it knows of its searches is in its memory alone."""
    settings = read_settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


async def _ask(target: Target, collection: str | None, *, refer: bool) -> Answer:
    asked = {"collection": collection} if collection else {}
    async with connect(target) as client:
        if refer:
            await client.ask("POST", "/quality/reference", params=asked)
        found: Answer = await client.get("/quality", params=asked)
        return found


def _told(found: Answer) -> RenderableType:
    counts = found["counts"]
    waiting = f", {counts['waiting']:,} wait for a second look" if counts["waiting"] else ""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("", style="cyan")
    for name in ("value", "95 %", "searches"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in _rows(found):
        table.add_row(*row)
    return Group(
        Text.assemble((found["collection"], "bold"), f": {counts['watched']:,} searches watched{waiting}"),
        table if table.row_count else Text(),
        *(Text(f"{each['severity']}: {each['text']}", COLOURS[each["severity"]]) for each in found["findings"]),
        Text(),
    )


def _rows(found: Answer) -> Iterator[tuple[str, ...]]:
    for k, figure in (found["recall"] or {"at": {}})["at"].items():
        yield _row(f"recall@{k} of the graph, effort {found['recall']['ef']}", figure)
    if depth := found["depth"]:
        yield _row(f"a better answer below rank {depth['candidates']}", depth["missed"])
        yield "candidates that hold 95 % of the ten best", str(depth["needed"]), "", str(depth["missed"]["searches"])
    if lift := found["rerank"]:
        yield _row("of the first stage's ten best kept by reranking", lift["overlap"])
        yield _row("likeness of the two orders", lift["correlation"])
        yield _row("nothing changed by reranking", lift["unchanged"])
    if lengths := found["lengths"]:
        yield from (_row("tokens that the reranker saw", each) for each in [lengths["scored_share"]] if each)
        yield _row(f"queries longer than {lengths['reserve']} tokens", lengths["long"])
    if unanswered := found["unanswered"]:
        yield _row("without a good answer", unanswered)
    for signal in (found["drift"] or {"signals": []})["signals"]:
        null = f"by chance below {signal['null']:.3f}"
        yield f"drift: {SIGNALS[signal['name']]}", f"{signal['distance']:.3f}", null, str(signal["searches"])


def _row(name: str, figure: Answer) -> tuple[str, ...]:
    return name, f"{figure['value']:.3f}", f"{figure['low']:.3f} … {figure['high']:.3f}", f"{figure['searches']:,}"
