"""`winnow standby`: a collection made ready for other models, compared by labels, switched to them, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from app.terminal import tables
from app.terminal.client import REFUSED, Client, Failure, Target, connect, read_json, read_settings, stderr
from app.terminal.options import DataDir, Url
from app.types import STANDBY
from models.words import Language

POLL_SECONDS = 0.5
Name = Annotated[str, typer.Argument(metavar="[COLLECTION]", help="Which collection.")]


def begin(
    name: Name = "default",
    encoder: Annotated[str | None, typer.Option(help="`embedded`, a folder, or a hub name.")] = None,
    reranker: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    sparse: Annotated[str | None, typer.Option(help="A sparse encoder likewise; empty for none.")] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens of a chunk.")] = None,
    overlap_tokens: Annotated[int | None, typer.Option(help="Tokens that neighbours share.")] = None,
    title: Annotated[
        str | None, typer.Option(help="Chunks that get the title in front: first, every or never.")
    ] = None,
    language: Annotated[Language | None, typer.Option(help="Whose stems and stop words lexical search takes.")] = None,
    late: Annotated[
        bool | None, typer.Option("--late/--no-late", help="Whether to keep vectors of tokens with each chunk.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Make a collection's documents ready for other models, another recipe or both, and wait until they are.

    What is not given is as the collection has it, which goes on answering meanwhile. A service that runs goes on with
    it when this is interrupted; `winnow standby show` waits again.

    \b
    winnow standby begin --encoder ./my-encoder
    winnow standby begin papers --encoder BAAI/bge-small-en-v1.5 --chunk-tokens 128 --url http://search:8000
    """
    recipe = _given(chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, title=title)
    body = {"recipe": recipe} | _given(encoder=encoder, reranker=reranker, sparse=sparse, language=language, late=late)
    asyncio.run(_begin(Target(url, data_dir), name, body))


def show(name: Name = "default", url: Url = None, data_dir: DataDir = None) -> None:
    """Wait until a collection's standby has all that the collection has, and show it."""
    asyncio.run(_show(Target(url, data_dir), name))


def switch(
    name: Name = "default",
    dataset: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Labels in BEIR's layout to compare both by first; a standby that is worse is not switched to. May be "
            "given again.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Switch although the standby can't take some of the documents.")
    ] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Let the standby take its collection's place. What was there is the standby then: switch back any time.

    With --dataset the answers of both are measured on the same queries first. Where nDCG@10 of the standby is worse and
    chance does not explain it (p < 0.05), nothing is switched and the exit code is 1.

    \b
    winnow standby switch --dataset my-data
    winnow standby switch papers --url http://search:8000
    """
    target = Target(url, data_dir)
    if dataset:
        _compare(target, name, dataset)
    made = asyncio.run(_ask(target, "POST", f"{_path(name)}/switch", json={"force": force}))
    _print(tables.collection(read_json(made)))


def end(
    name: Name = "default",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Drop a collection's standby. After a switch that is the end of the way back."""
    asyncio.run(_end(Target(url, data_dir), name, yes=yes))
    typer.echo(f"The standby of '{name}' is gone.")


async def _begin(target: Target, name: str, body: dict[str, Any]) -> None:
    async with connect(target) as client:
        await client.ask("POST", f"{_path(name)}/standby", json=body)
        await _follow(client, name)


async def _show(target: Target, name: str) -> None:
    async with connect(target) as client:
        await _follow(client, name)


async def _end(target: Target, name: str, *, yes: bool) -> None:
    async with connect(target) as client:
        found = await client.get(_path(f"{name}{STANDBY}"))
        if not yes:
            typer.confirm(f"Drop the standby of '{name}', with encoder {found['encoder']}?", abort=True)
        await client.ask("DELETE", f"{_path(name)}/standby")


async def _ask(target: Target, method: str, path: str, **request: Any) -> Any:
    async with connect(target) as client:
        return await client.ask(method, path, **request)


async def _follow(client: Client, name: str) -> None:
    """A bar until it has caught up, and then what it is."""
    from app.terminal.bench import track  # takes a while with all that it imports

    found = await client.get(_path(name))
    with track("made ready", found["documents"] + found["pending"]) as advance:
        done = 0
        while (left := await _left(client, name))["behind"] + left["pending"]:
            ready = max(found["documents"] + found["pending"] - left["behind"] - left["pending"], done)
            advance(ready - done)
            done = ready
            await asyncio.sleep(POLL_SECONDS)
    _print(tables.collection(await client.get(_path(f"{name}{STANDBY}"))))
    if left["failed"]:
        stderr.print(f"[yellow]It can't take {left['failed']:,} of the documents: a switch would name some.[/]")


async def _left(client: Client, name: str) -> Any:
    found = await client.get(_path(name))
    if found["standby"] is None:
        raise Failure(f"Collection '{name}' has no standby: winnow standby begin {name} --encoder …", REFUSED)
    trouble = (await client.get(_path(f"{name}{STANDBY}")))["trouble"]
    if trouble:
        raise Failure(f"The standby does not move: {trouble}", REFUSED)
    return found["standby"]


def _compare(target: Target, name: str, datasets: list[Path]) -> None:
    from app.terminal import evaluation, scoreboard  # they take seconds with all that they import

    settings = read_settings(data_dir=target.data_dir)
    order = evaluation.Order(
        folders=datasets,
        split="test",
        queries=None,
        seed=0,
        base=evaluation.base(settings, {}, "50", name, rerank=True),
        variants=[f"collection={name}{STANDBY}"],
        cache=None,
    )
    found = evaluation.run(order, settings, target)
    if worse := scoreboard.losses(found):
        raise Failure(f"Not switched: the standby is worse ({'; '.join(worse)}).", REFUSED)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _path(name: str) -> str:
    return f"/collections/{quote(name, safe='')}"


def _print(what: Any) -> None:
    Console(highlight=False).print(what)
