"""`winnow feedback`: what people made of answers, counted and read out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from app.terminal.bench import writing
from app.terminal.client import REFUSED, UNUSABLE, Client, Failure, Target, connect, stderr
from app.terminal.options import DataDir, Url

FILES = {"qrels": "qrels/{split}.tsv", "queries": "queries.jsonl", "corpus": "corpus.jsonl"}
"""In an order in which whatever comes in meanwhile leaves no judgement without its query or document."""

QRELS = "qrels"
TOLD = {
    QRELS: "judgements",
    "queries": "queries",
    "corpus": "documents",
    "pairs": "pairs",
    "passages": "passages",
}

InCollection = Annotated[str, typer.Option("--collection", "-c", help="Whose feedback.")]


def show(collection: InCollection = "default", url: Url = None, data_dir: DataDir = None) -> None:
    """Say how much feedback there is."""
    found = asyncio.run(_totals(Target(url, data_dir), collection))
    typer.echo(f"{found['judged']:,} judged, {found['clicked']:,} clicked, for {found['queries']:,} queries")


def export(
    dataset: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a dataset in BEIR's layout, for `winnow evaluate`.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write pairs, for `winnow mine` and `winnow train`.")
    ] = None,
    passages: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the collection's chunks, the corpus of `winnow mine`.")
    ] = None,
    collection: InCollection = "default",
    split: Annotated[str, typer.Option(help="Name of the dataset's qrels; training reads `train`.")] = "test",
    clicks: Annotated[
        int, typer.Option(min=0, help="So many clicks count as relevant where nobody judged; 0: none do.")
    ] = 0,
    current: Annotated[
        bool, typer.Option("--current", help="Leave out feedback on earlier texts of documents.")
    ] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Write what people made of answers as data to evaluate with, to train with, or both.

    Of several judgements of a document for a query the median counts, of two the lower one. Documents that are gone are
    left out. Files that are there are replaced.

    \b
    winnow feedback export --dataset my-data && winnow evaluate my-data
    winnow feedback export --pairs pairs.jsonl --passages passages.jsonl
    winnow mine passages.jsonl pairs.jsonl --output groups.jsonl
    """
    if not (dataset or pairs or passages):
        raise Failure("Say what to write: --dataset DIR, --pairs FILE or --passages FILE.", UNUSABLE)
    wanted = {name: dataset / place.format(split=split) for name, place in FILES.items()} if dataset else {}
    wanted |= {name: path for name, path in (("pairs", pairs), ("passages", passages)) if path}
    asked = {"collection": collection, "clicks": str(clicks), "current": str(current).lower()}
    asyncio.run(_export(Target(url, data_dir), wanted, asked))


async def _totals(target: Target, collection: str) -> Any:
    async with connect(target) as client:
        return await client.get("/feedback", params={"collection": collection})


async def _export(target: Target, wanted: Mapping[str, Path], asked: Mapping[str, str]) -> None:
    async with connect(target) as client:
        found = await client.get("/feedback", params={"collection": asked["collection"]})
        if not found["queries"]:
            raise Failure(f"There is no feedback on collection '{asked['collection']}' yet: POST /feedback.", REFUSED)
        for part, path in wanted.items():
            with stderr.status(f"writing {path}"):
                lines = await _write(client, part, path, asked)
            typer.echo(f"{path}: {lines - (part == QRELS):,} {TOLD[part]}")


async def _write(client: Client, part: str, path: Path, asked: Mapping[str, str]) -> int:
    """How many lines it took."""
    lines = 0
    async with _beside(path) as file, client.stream(f"/feedback/{part}", params=asked) as response:
        async for piece in response.aiter_bytes():
            file.write(piece)
            lines += piece.count(b"\n")
    return lines


@asynccontextmanager
async def _beside(path: Path) -> AsyncIterator[IO[bytes]]:
    """A file that gets its name when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
