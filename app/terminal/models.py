"""`winnow models`: what it takes from the command line. The work is in terminal/shelf.py, dear to import."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def models(
    name: Annotated[
        str | None, typer.Argument(help="A hub name, a folder or `embedded`.", show_default="all that are known")
    ] = None,
    kind: Annotated[
        Literal["encoder", "sparse", "cross-encoder", "late-interaction"] | None,
        typer.Option(help="Only models of this kind."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only models that may know it: en, de, zh (ISO 639).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts for a program.")] = False,
) -> None:
    """List well-known models, or explain one: its prompts and limits, and what Winnow does with it.

    What is known of models on a hub is part of Winnow: nothing is fetched. A folder is opened and read off. A model
    that is not known can be served all the same, if sentence-transformers reads it.

    \b
    winnow models
    winnow models --kind encoder --language de
    winnow models intfloat/multilingual-e5-small
    winnow models ./my-encoder
    """
    from app.terminal import shelf  # takes numpy along, which --help need not pay

    if name is None:
        shelf.show_all(kind, language, as_json=as_json)
    else:
        shelf.show(name, as_json=as_json)
