"""`winnow documents`: what a collection holds, to look at or to take along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app.terminal import tables
from app.terminal.client import Client, Target, connect, read_json
from app.terminal.options import DataDir, Url, condition

SHOWN = 100
"""Documents of a table that was asked for without a number."""

PAGE = 1000

Listed = dict[str, Any]


def documents(
    collection: Annotated[str, typer.Option("--collection", "-c", help="Which collection.")] = "default",
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Conditions on metadata, as of a search.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many.", show_default=f"{SHOWN}, or all with --jsonl")
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print each as a line of JSON with its text, title and metadata.")
    ] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """List what a collection holds, in the order in which it was taken in.

    Lines of JSON are what `winnow ingest`, `winnow judge` and `winnow synthesize` read as a corpus.

    \b
    winnow documents --collection handbook --filter '{"year": {"$gte": 2020}}'
    winnow documents --jsonl > corpus.jsonl
    """
    asked = {"collection": collection, "filter": condition(filter_), "text": jsonl}
    asyncio.run(_show(Target(url, data_dir), asked, limit, jsonl=jsonl))


async def _show(target: Target, asked: dict[str, Any], limit: int | None, *, jsonl: bool) -> None:
    async with connect(target) as client:
        if jsonl:
            async for each in _every(client, asked, limit):
                typer.echo(orjson.dumps({name: each[name] for name in ("id", "title", "text", "metadata")}))
            return
        most = limit or SHOWN
        found = [each async for each in _every(client, asked, most + 1)]
    Console(highlight=False).print(tables.documents(found[:most], more=len(found) > most))


async def _every(client: Client, asked: dict[str, Any], limit: int | None) -> AsyncIterator[Listed]:
    """The first so many, page by page. It holds nothing open, so that whoever reads no further may leave it."""
    after, seen = None, 0
    while limit is None or seen < limit:
        size = PAGE if limit is None else min(limit - seen, PAGE)
        page = read_json(await client.ask("POST", "/documents/list", json=asked | {"limit": size, "after": after}))
        for each in page["documents"]:
            yield each
        seen, after = seen + len(page["documents"]), page["next"]
        if after is None:
            return
