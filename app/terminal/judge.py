"""`winnow judge`: what it takes from the command line. The work is in terminal/judging.py, dear to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.terminal.client import Failure, read_settings
from app.terminal.options import DataDir, setting

STOPPED = 130

Labels = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="LABELS", help="The file that was labelled.")
]
Corpus = Annotated[
    list[Path], typer.Argument(exists=True, metavar="CORPUS", help="Documents: .jsonl, .txt, .md, or folders of them.")
]


def pool(
    context: typer.Context,
    questions: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Questions: .txt (one a line), .jsonl or .csv.")
    ],
    corpus: Corpus,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to label, .csv or .jsonl; one that is there grows.")
    ],
    html: Annotated[Path | None, typer.Option(help="The same as a page, to label in a browser.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Documents of each way to search.")] = 10,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,…", help="A variant to search with as well; may be repeated."),
    ] = None,
    encoder: Annotated[str | None, setting("encoder")] = None,
    reranker: Annotated[str | None, setting("reranker")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Chunks to rerank.")] = 50,
    language: Annotated[
        str | None, typer.Option(help="Of the lexical stage's stop words and stems.", show_default="WINNOW_LANGUAGE")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the order of the rows.")] = 0,
    data_dir: DataDir = None,
    device: Annotated[str | None, setting("device")] = None,
    threads: Annotated[int | None, setting("threads")] = None,
) -> None:
    """Search for questions in every way and write what is found to a file, for a person to label.

    The first documents of every stage (dense, lexical, fused, reranked) and of every variant go into one file, a row
    for each question and document, in an order that does not tell who found it. Put 0 (does not help), 1 (is about
    it), 2 (answers in part) or 3 (answers it) in the column relevance; what stays empty is left out.

    Pool again with more questions or variants: labels are kept, and only what is new is added. Keys of --compare are
    those of `winnow evaluate`.

    \b
    winnow judge pool questions.txt docs/ -o labels.csv
    winnow judge pool questions.txt corpus.jsonl -o labels.csv --html label.html
    winnow judge pool questions.txt corpus.jsonl -o labels.csv --compare encoder=./mine --compare chunk_tokens=128
    """
    from app.terminal import evaluation, judging  # take seconds with all that they import

    named = ("data_dir", "encoder", "reranker", "device", "threads")
    settings = read_settings(**{name: context.params[name] for name in named})
    order = judging.Order(
        questions=questions,
        corpus=corpus,
        output=output,
        html=html,
        depth=depth,
        seed=seed,
        base=evaluation.base(settings, {"language": language}, str(candidates), None, rerank=True),
        variants=compare or [],
        cache=settings.data_dir / "evaluation",
    )
    try:
        judging.pool(order, settings)
    except KeyboardInterrupt:
        raise Failure("Stopped. What was computed is kept; the same command goes on from there.", STOPPED) from None


def read(
    labels: Labels,
    corpus: Corpus,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the dataset.")],
    unlabelled: Annotated[
        Literal["skip", "zero", "refuse"],
        typer.Option(help="Rows without a label: leave them out, count them as 0, or refuse."),
    ] = "skip",
) -> None:
    """Read labels back as a dataset in BEIR's layout, for `winnow evaluate`.

    Every row is checked, and the whole corpus is written beside the labels: the one that was pooled.

    \b
    winnow judge read labels.csv docs/ -o my-dataset
    winnow evaluate my-dataset
    """
    from app.terminal import judging

    judging.read(labels, corpus, output, unlabelled)


def status(labels: Labels) -> None:
    """Show how far the labelling is, question by question.

    \b
    winnow judge status labels.csv
    """
    from app.terminal import judging

    judging.status(labels)
