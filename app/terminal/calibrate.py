"""`winnow calibrate`: what it takes from the command line. The work is in terminal/calibration.py, dear to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.terminal.client import UNUSABLE, Failure, Target
from app.terminal.options import DataDir, Url
from app.types import Mode

STOPPED = 130


def calibrate(
    dataset: Annotated[
        Path | None,
        typer.Argument(exists=True, file_okay=False, metavar="DATASET", help="A folder in BEIR's layout."),
    ] = None,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Which collection.")] = "default",
    split: Annotated[str, typer.Option(help="Which judgements: qrels/SPLIT.tsv.")] = "test",
    mode: Annotated[Mode | None, typer.Option(help="Searches of which kind.", show_default="the service's")] = None,
    candidates: Annotated[int, typer.Option(min=10, help="Chunks to rerank.")] = 50,
    queries: Annotated[int | None, typer.Option(min=1, help="Draw so many at random.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the draw, the halves and the intervals.")] = 0,
    unjudged: Annotated[
        bool, typer.Option(help="Take queries that no qrels file names for such that nothing answers.")
    ] = True,
    judged_only: Annotated[
        bool,
        typer.Option("--judged-only", help="Leave out unjudged documents; otherwise they count as irrelevant."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what was found, and keep nothing.")] = False,
    output: Annotated[Path | None, typer.Option(help="File for the calibration, to carry it elsewhere.")] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", exists=True, dir_okay=False, help="Keep the calibration in such a file; takes no dataset."
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show what the collection has, since when, and what it is worth.")
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Remove all that the collection has.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration with all figures as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="File for a page with the reliability diagram, of one piece.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Learn from labelled queries what scores mean: hits then carry their probability of relevance.

    Every query is asked of the collection, which must hold the dataset's documents under their ids. One half of the
    queries fits, the other half measures: the weights of the blend, which are taken if they do better than the
    reranker's own; a map from score to probability for searches with and without reranking, with its calibration error;
    and whether reranking does any good. If it makes the order worse, searches are no longer reranked unless they ask.

    A document counts by its best chunk. Documents that nobody judged count as irrelevant: with sparse labels the
    probabilities are too low. Queries with no relevant document in the collection count as such that ought to be
    refused. What was learned holds for these models alone, and is kept with the collection.

    \b
    winnow calibrate datasets/mine --collection papers
    winnow calibrate datasets/mine --collection papers --mode dense --dry-run
    winnow calibrate datasets/mine --output papers.json --html papers.html
    winnow calibrate --from papers.json --collection papers --url http://search:8000
    winnow calibrate --show --collection papers
    winnow calibrate --forget --collection papers
    """
    target = Target(url, data_dir)
    if sum([dataset is not None, from_ is not None, show, forget]) != 1:
        raise Failure("Name a dataset, or say one of --from, --show and --forget, and no more than one.", UNUSABLE)
    if dataset is None:
        _manage(collection, mode, from_, html, target, show=show, as_json=as_json)
        return
    from app.terminal import calibration  # takes seconds with all that it imports

    order = calibration.Order(
        folder=dataset,
        split=split,
        queries=queries,
        seed=seed,
        collection=collection,
        mode=mode,
        candidates=candidates,
        unjudged=unjudged,
        judged_only=judged_only,
        keeps=not dry_run,
        output=output,
        html=html,
        as_json=as_json,
    )
    try:
        calibration.run(order, target)
    except KeyboardInterrupt:
        raise Failure("Stopped. Nothing was kept.", STOPPED) from None


def _manage(
    collection: str,
    mode: Mode | None,
    file: Path | None,
    html: Path | None,
    target: Target,
    *,
    show: bool,
    as_json: bool,
) -> None:
    """What a collection has already, or another has."""
    from app.terminal import kept

    if file is not None:
        kept.carry(file, collection, target)
    elif show:
        kept.show(collection, mode, html, target, as_json=as_json)
    elif mode is not None:
        raise Failure("--forget removes the calibrations for every mode: leave out --mode.", UNUSABLE)
    else:
        kept.forget(collection, target)
