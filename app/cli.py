"""The command line. What a service does speaks HTTP by terminal/client.py; the rest works with models and files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape

from app.settings import CONFIG_VARIABLE
from app.terminal import feedback, judge, keys, standby, tables
from app.terminal.backup import backup, restore
from app.terminal.calibrate import calibrate
from app.terminal.check import check
from app.terminal.client import (
    REFUSED,
    UNREACHABLE,
    UNUSABLE,
    Failure,
    Target,
    connect,
    in_plain_words,
    read_json,
    read_settings,
)
from app.terminal.client import stderr as err
from app.terminal.documents import documents
from app.terminal.evaluate import evaluate
from app.terminal.models import models
from app.terminal.options import DataDir, Url, condition, finite, setting
from app.terminal.quality import quality
from app.terminal.sources import Found, Unusable, find
from app.terminal.synthesize import synthesize
from app.terminal.train import mine, train_blend, train_encoder, train_head, train_late, train_reranker, train_rounding
from app.terminal.upload import NAMED, Screen, Tally, Upload
from app.types import Mode
from models.words import Language

STOPPED = 130

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Two-stage retrieval: vectors and words propose candidates, tokens and a cross-encoder put them in order.",
    epilog="`winnow COMMAND --help` has examples. Exit codes: 0 done; 1 refused, or something was found wrong; "
    "2 arguments or settings are wrong; 3 no connection to the service; 130 Ctrl-C.",
)
collections = typer.Typer()
app.add_typer(collections, name="collections")
train = typer.Typer(no_args_is_help=True, help="Fit the models to your own domain.")
app.add_typer(train, name="train")
opinions = typer.Typer(no_args_is_help=True, help="Count and read out what people made of answers.")
app.add_typer(opinions, name="feedback")
labelling = typer.Typer(no_args_is_help=True, help="Make a dataset of your own questions by labelling answers.")
app.add_typer(labelling, name="judge")
replacing = typer.Typer(no_args_is_help=True, help="Give a collection other models while it goes on answering.")
app.add_typer(replacing, name="standby")
admitting = typer.Typer(no_args_is_help=True, help="Say who may ask the service: create, list and revoke API keys.")
app.add_typer(admitting, name="keys")


def main() -> None:
    app()


Name = Annotated[str, typer.Argument(help="The collection's name.")]
InCollection = Annotated[str, typer.Option("--collection", "-c", help="Which collection.")]


@app.callback(invoke_without_command=True)
def root(asked: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if asked:
        typer.echo(f"winnow {version('winnow')}")
        raise typer.Exit


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, setting("host")] = None,
    port: Annotated[int | None, setting("port")] = None,
    data_dir: DataDir = None,
    encoder: Annotated[str | None, setting("encoder")] = None,
    reranker: Annotated[str | None, setting("reranker")] = None,
    sparse: Annotated[str | None, setting("sparse")] = None,
    device: Annotated[str | None, setting("device")] = None,
    threads: Annotated[int | None, setting("threads")] = None,
    log_level: Annotated[str | None, setting("log_level")] = None,
    log_format: Annotated[str | None, setting("log_format")] = None,
    config: Annotated[
        Path | None, typer.Option(help="File with settings, in TOML.", show_default="WINNOW_CONFIG, or winnow.toml")
    ] = None,
) -> None:
    """Start the service.

    A flag goes before the environment (WINNOW_PORT=9000), which goes before the settings file (port = 9000).
    Every setting can be given by the latter two; deploy/README.md lists them. Ctrl-C and SIGTERM stop it cleanly.

    \b
    winnow serve
    winnow serve --host 0.0.0.0 --port 9000 --data-dir /var/lib/winnow
    winnow serve --config production.toml
    """
    from app.terminal.serve import serve as run  # takes half a second, which other commands need not pay

    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    with in_plain_words():
        run(read_settings(**{name: given for name, given in context.params.items() if name != "config"}))


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(exists=True, metavar="PATH", help="Files, or folders of them.")],
    collection: InCollection = "default",
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what the collection has of files that are not among these.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Send files again that could not be read before.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Take in files, or folders of them: PDF, DOCX, PPTX, XLSX, HTML, Markdown, text, CSV, JSONL (also .gz).

    A file's id is its path below the given folder; hits say on which page and under which headings they stand. A line
    of JSONL has id (or _id), text, title and metadata; all its other fields go into the metadata.

    Running it again resumes and sends changed files only; lines that are there already count as unchanged. A file that
    can't be read is named, and the rest goes on; it is sent again when it, its reader or the reader's limits have
    changed, or with --retry. A busy service is waited for. The exit code is 1 when something was
    refused, 3 when the connection was lost.

    \b
    winnow ingest articles.jsonl
    winnow ingest docs/ notes/*.md --collection handbook
    winnow ingest docs/ --collection handbook --prune
    winnow ingest corpus.jsonl.gz --url http://search:8000
    """
    with in_plain_words():
        found = _found(paths)
        try:
            tally = asyncio.run(_ingest(Target(url, data_dir), found, collection, prune=prune, retry=retry))
        except KeyboardInterrupt:
            raise Failure("Stopped. What was acknowledged is kept; run it again to resume.", STOPPED) from None
    _report(tally, found)
    if not tally.clean:
        raise typer.Exit(REFUSED)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    collection: InCollection = "default",
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="Hits to show.", show_default="10")] = None,
    candidates: Annotated[
        str | None,
        typer.Option(help="Candidates to rerank; auto: as long as more could be among the best.", show_default="auto"),
    ] = None,
    deadline: Annotated[
        int | None, typer.Option(min=1, metavar="MS", help="Answer after so long, however much is reranked by then.")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Conditions on metadata, as in the example.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Candidates by vectors, words, terms, or by all.", show_default="the service's")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, not by the graph.")] = False,
    rerank: Annotated[
        bool | None,
        typer.Option("--rerank/--no-rerank", help="Ask the second stage, or leave it out.", show_default="as advised"),
    ] = None,
    min_score: Annotated[float | None, typer.Option(callback=finite, help="Leave out hits that score less.")] = None,
    min_relevance: Annotated[
        float | None,
        typer.Option(
            callback=finite, help="Leave out hits less probably relevant, where the collection is calibrated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the service's answer as it is.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Search, and see what each stage thought of every hit and how long it took.

    \b
    winnow search "how do vaccines work"
    winnow search "tax relief" --filter '{"year": {"$gte": 2020}}' --top-k 3
    winnow search "error 0x80070005" --mode lexical
    winnow search "how do vaccines work" --candidates auto --deadline 200
    winnow search "tax relief" --no-rerank --exact --json
    """
    body = {
        "query": query,
        "collection": collection,
        "top_k": top_k,
        "candidates": int(candidates) if candidates and candidates.isdecimal() else candidates,
        "deadline_ms": deadline,
        "min_score": min_score,
        "filter": condition(filter_),
        "mode": mode,
        "exact": exact,
        "rerank": rerank,
        "min_relevance": min_relevance,
    }
    given = {name: value for name, value in body.items() if value is not None}
    with in_plain_words():
        response = asyncio.run(_ask(Target(url, data_dir), "POST", "/search", json=given))
        typer.echo(response.text) if as_json else _print(tables.hits(read_json(response), query))


app.command()(in_plain_words()(documents))
app.command()(in_plain_words()(backup))
app.command()(in_plain_words()(restore))
app.command()(in_plain_words()(quality))
app.command()(in_plain_words()(check))
app.command()(in_plain_words()(models))
app.command()(in_plain_words()(evaluate))
app.command()(in_plain_words()(calibrate))
app.command()(in_plain_words()(synthesize))
app.command()(in_plain_words()(mine))
train.command("encoder")(in_plain_words()(train_encoder))
train.command("head")(in_plain_words()(train_head))
train.command("reranker")(in_plain_words()(train_reranker))
train.command("late")(in_plain_words()(train_late))
train.command("blend")(in_plain_words()(train_blend))
train.command("rounding")(in_plain_words()(train_rounding))
opinions.command("show")(in_plain_words()(feedback.show))
opinions.command("export")(in_plain_words()(feedback.export))
labelling.command("pool")(in_plain_words()(judge.pool))
labelling.command("read")(in_plain_words()(judge.read))
labelling.command("status")(in_plain_words()(judge.status))
replacing.command("begin")(in_plain_words()(standby.begin))
replacing.command("show")(in_plain_words()(standby.show))
replacing.command("switch")(in_plain_words()(standby.switch))
replacing.command("end")(in_plain_words()(standby.end))
admitting.command("create")(in_plain_words()(keys.create))
admitting.command("list")(in_plain_words()(keys.every))
admitting.command("revoke")(in_plain_words()(keys.revoke))


@collections.callback(invoke_without_command=True)
def every(context: typer.Context, url: Url = None, data_dir: DataDir = None) -> None:
    """List collections, or create, show or drop one.

    \b
    winnow collections
    winnow collections create papers --chunk-tokens 128
    winnow collections drop papers
    """
    context.obj = Target(url, data_dir)
    if context.invoked_subcommand is None:
        with in_plain_words():
            response = asyncio.run(_ask(context.obj, "GET", "/collections"))
            _print(tables.collections(read_json(response)["collections"]))


@collections.command("create")
def create_collection(
    context: typer.Context,
    name: Name,
    encoder: Annotated[str | None, setting("encoder")] = None,
    reranker: Annotated[str | None, setting("reranker")] = None,
    sparse: Annotated[str | None, setting("sparse")] = None,
    chunk_tokens: Annotated[int | None, setting("chunk_tokens")] = None,
    overlap_tokens: Annotated[int | None, setting("overlap_tokens")] = None,
    title: Annotated[
        str | None, typer.Option(help="Chunks that get the title in front: first, every or never.")
    ] = None,
    language: Annotated[Language | None, setting("language")] = None,
    late: Annotated[
        bool | None, typer.Option("--late/--no-late", help="Whether to keep vectors of tokens with each chunk.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Create a collection; what is not given comes from the service's settings.

    \b
    winnow collections create papers --encoder BAAI/bge-small-en-v1.5 --chunk-tokens 128
    """
    recipe = _given(chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, title=title)
    body = {"name": name, "recipe": recipe} | _given(
        encoder=encoder, reranker=reranker, sparse=sparse, language=language, late=late
    )
    target = _target(context, url, data_dir)
    with in_plain_words():
        response = asyncio.run(_ask(target, "POST", "/collections", creates=True, json=body))
        _print(tables.collection(read_json(response)))


@collections.command("show")
def show_collection(context: typer.Context, name: Name, url: Url = None, data_dir: DataDir = None) -> None:
    """Show all there is to know of a collection."""
    with in_plain_words():
        response = asyncio.run(_ask(_target(context, url, data_dir), "GET", _path(name)))
        _print(tables.collection(read_json(response)))


@collections.command("drop")
def drop_collection(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Drop a collection and every document in it, for good."""
    with in_plain_words():
        asyncio.run(_drop(_target(context, url, data_dir), name, yes=yes))
    typer.echo(f"Collection '{name}' is gone.")


async def _ingest(target: Target, found: Found, collection: str, *, prune: bool, retry: bool) -> Tally:
    async with connect(target, creates=True) as client:
        try:
            upload = Upload(client, collection, Screen(err, found.size))
            return await upload.run(found.sources, prune=prune, retry=retry)
        except Failure as failure:
            if failure.code == UNREACHABLE:
                kept = "What was acknowledged is kept; run the same command again to resume."
                raise Failure(f"{failure}\n{kept}", UNREACHABLE) from failure
            raise


async def _ask(target: Target, method: str, path: str, *, creates: bool = False, **request: Any) -> Any:
    async with connect(target, creates=creates) as client:
        return await client.ask(method, path, **request)


async def _drop(target: Target, name: str, *, yes: bool) -> None:
    async with connect(target) as client:
        found = await client.get(_path(name))
        if not yes:
            typer.confirm(f"Drop collection '{name}' and its {found['documents']:,} documents?", abort=True)
        await client.ask("DELETE", _path(name))


def _found(paths: Sequence[Path]) -> Found:
    try:
        found = find(paths)
    except Unusable as error:
        raise Failure(str(error), UNUSABLE) from error
    for path in found.skipped[:NAMED]:
        why = "a link to a folder: name it as well" if path.is_dir() else "of no kind that can be read"
        err.print(f"[yellow]skipped[/] {escape(str(path))}: {why}", soft_wrap=True)
    if not found.sources:
        raise Failure("There is nothing to ingest.", UNUSABLE)
    return found


def _report(tally: Tally, found: Found) -> None:
    for refusal in tally.refusals:
        err.print(f"[red]refused[/] {escape(refusal)}", soft_wrap=True)
    if tally.refused > len(tally.refusals):
        err.print(f"… and {tally.refused - len(tally.refusals):,} more refused")
    for failure in tally.failures:
        err.print(f"[red]not searchable[/] {escape(failure)}", soft_wrap=True)
    outcomes = ("created", "replaced", "updated", "unchanged")
    counts = [f"{tally.outcomes[name]:,} {name}" for name in outcomes]
    before = f" ({tally.before:,} before: --retry sends them again)" if tally.before else ""
    counts += [f"{tally.refused:,} refused{before}"] + ([f"{tally.failed:,} not searchable"] if tally.failed else [])
    counts += [f"{len(found.skipped):,} files skipped"] if found.skipped else []
    counts += [f"{tally.deleted:,} deleted"] if tally.deleted else []
    rate = tally.taken / max(tally.seconds, 0.001)
    _print(f"{', '.join(counts)}: {tally.taken:,} documents in {tally.seconds:.1f} s, {rate:,.0f}/s")


def _print(what: Any) -> None:
    Console(highlight=False).print(what, soft_wrap=isinstance(what, str))


def _target(context: typer.Context, url: str | None, data_dir: Path | None) -> Target:
    """What was said before the subcommand counts as well."""
    given = Target(url, data_dir)
    return context.obj if given == Target() and isinstance(context.obj, Target) else given


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _path(name: str) -> str:
    return f"/collections/{quote(name, safe='')}"


if __name__ == "__main__":
    main()
