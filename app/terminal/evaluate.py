"""`winnow evaluate`: what it takes from the command line. The work is in terminal/evaluation.py, dear to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.terminal.client import UNUSABLE, Failure, Target, read_settings
from app.terminal.options import DataDir, Url, setting

STOPPED = 130
OWN = ("encoder", "reranker", "sparse", "chunk_tokens", "overlap_tokens", "dims", "title", "language")
"""Flags that say what is measured; a collection has all of it settled."""


def evaluate(
    context: typer.Context,
    datasets: Annotated[
        list[Path], typer.Argument(exists=True, file_okay=False, metavar="DATASET", help="Folders in BEIR's layout.")
    ],
    split: Annotated[str, typer.Option(help="Which judgements: qrels/SPLIT.tsv.")] = "test",
    queries: Annotated[int | None, typer.Option(min=1, help="Draw so many at random.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the draw, the intervals and the tests.")] = 0,
    encoder: Annotated[str | None, setting("encoder")] = None,
    reranker: Annotated[str | None, setting("reranker")] = None,
    sparse: Annotated[str | None, setting("sparse")] = None,
    no_rerank: Annotated[bool, typer.Option("--no-rerank", help="Leave out the second stage.")] = False,
    candidates: Annotated[
        str, typer.Option(help="Chunks to rerank. Several (10,20,50) draw a curve; the stages are then of the deepest.")
    ] = "50",
    dims: Annotated[
        int | None, typer.Option(min=1, help="Numbers of each vector to use, for encoders that were trained for it.")
    ] = None,
    chunk_tokens: Annotated[int | None, setting("chunk_tokens")] = None,
    overlap_tokens: Annotated[int | None, setting("overlap_tokens")] = None,
    title: Annotated[
        str | None,
        typer.Option(help="Chunks that get the title in front: first, every or never.", show_default="first"),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Of the lexical stage's stop words and stems; none takes words as they are.",
            show_default="WINNOW_LANGUAGE",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,…", help="A variant to measure and test against the rest; may be repeated."),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Ask a service's collection, instead of models.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    device: Annotated[str | None, setting("device")] = None,
    threads: Annotated[int | None, setting("threads")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where vectors and scores are kept for the next time.", show_default="DATA_DIR/evaluation"),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute everything anew and keep nothing.")] = False,
    json: Annotated[Path | None, typer.Option(help="File for everything, with each query's values.")] = None,
    html: Annotated[Path | None, typer.Option(help="File for a page with plots, of one piece.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder for TREC run files, and the judgements beside them.")] = None,
) -> None:
    """Measure retrieval on datasets: every stage side by side, with intervals, tests, ceilings and latencies.

    A dataset is a folder in BEIR's layout: corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and
    qrels/SPLIT.tsv (query-id, corpus-id, score, with tabs between them); the files may be gzipped.

    Documents are chunked, embedded and reranked as the service would; dense search is exact. Vectors and scores are
    kept, so that a second run takes seconds and an interrupted one goes on where it was. With --collection the
    searches of a running service are measured instead; its documents must have the dataset's ids.

    Keys of --compare: encoder, reranker, sparse, late, precision, dims, chunk_tokens, overlap_tokens, title,
    candidates, language, fusion, dense_weight, lexical_weight, sparse_weight, fusion_k; with --collection: collection,
    candidates, late and those of the fusion.

    \b
    winnow evaluate datasets/scifact
    winnow evaluate datasets/* --queries 200 --json results.json --html results.html
    winnow evaluate datasets/scifact --candidates 10,20,50,100,200
    winnow evaluate datasets/scifact --compare encoder=./my-encoder --compare dims=128 --compare chunk_tokens=128
    winnow evaluate datasets/scifact --collection papers --url http://search:8000
    """
    from app.terminal import evaluation  # takes seconds with all that it imports

    chosen = {name: context.params[name] for name in OWN if context.params[name] is not None}
    named = ("data_dir", "encoder", "reranker", "sparse", "device", "threads", "chunk_tokens", "overlap_tokens")
    if collection and (chosen or no_rerank):
        raise Failure(_settled([*chosen, *(["no_rerank"] if no_rerank else [])]), UNUSABLE)
    settings = read_settings(**{name: context.params[name] for name in named})
    order = evaluation.Order(
        folders=datasets,
        split=split,
        queries=queries,
        seed=seed,
        base=evaluation.base(settings, chosen, candidates, collection, rerank=not no_rerank),
        variants=compare or [],
        cache=None if no_cache else cache or settings.data_dir / "evaluation",
        json=json,
        html=html,
        runs=run,
    )
    try:
        evaluation.run(order, settings, Target(url, data_dir))
    except KeyboardInterrupt:
        told = "Stopped." if no_cache else "Stopped. What was computed is kept; the same command goes on from there."
        raise Failure(told, STOPPED) from None


def _settled(names: list[str]) -> str:
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    return f"A collection has its own models and recipe: leave out {flags}, or leave out --collection."
