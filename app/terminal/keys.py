"""`winnow keys`: who may ask the service. It works on the file of keys; a service that runs follows within a second."""

from __future__ import annotations

from typing import Annotated, cast

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from app.caller import SCOPES, Scope
from app.errors import Invalid, NotFound
from app.stores.keys import Key, KeyFile
from app.terminal.audit import tell
from app.terminal.client import UNUSABLE, Failure, read_settings, stderr
from app.terminal.options import DataDir


def create(
    name: Annotated[str, typer.Argument(help="Whom it is for; it stands in the list.")],
    scope: Annotated[
        list[str], typer.Option("--scope", "-s", help=f"What it may do: {', '.join(SCOPES)}; several with commas.")
    ],
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Limit it to this one; may be given again.", show_default="all"),
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that models may read for it, in the mean.", show_default="no limit"),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key, and print it: it is shown this once, and kept as a hash.

    \b
    winnow keys create website --scope search --collection docs --tokens-per-minute 200000
    winnow keys create loader --scope ingest,search
    winnow keys create prometheus --scope metrics > winnow.key
    """
    settings = read_settings(data_dir=data_dir)
    file = KeyFile(settings.keys_file)
    try:
        first = not file.read()
        key, shown = file.create(name, _scopes(scope), collection or [], tokens_per_minute)
    except Invalid as error:
        raise Failure(str(error), UNUSABLE) from error
    typer.echo(shown)
    tell(settings, "create key", key=key.id, scopes=key.scopes)
    stderr.print(f"Key {key.id} for {key.name}, in {file.path}. It is not shown again.", soft_wrap=True, markup=False)
    if first:
        stderr.print("[yellow]It is the first one: from now on the service asks everybody for a key.[/]")


def every(data_dir: DataDir = None) -> None:
    """List keys, those that were revoked too."""
    try:
        keys = KeyFile(read_settings(data_dir=data_dir).keys_file).read()
    except Invalid as error:
        raise Failure(str(error), UNUSABLE) from error
    if not keys:
        typer.echo("There are no keys: whoever reaches the service may ask it.")
        return
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("id", "name", "scopes", "collections", "tokens/min", "created", "revoked"):
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "created", "revoked"))
    for key in keys:
        table.add_row(*_row(key))
    Console(highlight=False, markup=False).print(table)


def revoke(
    key: Annotated[str, typer.Argument(help="Its id, or its name if no other key has it.")], data_dir: DataDir = None
) -> None:
    """End a key. A service that runs refuses it within a second."""
    settings = read_settings(data_dir=data_dir)
    try:
        revoked = KeyFile(settings.keys_file).revoke(key)
    except (Invalid, NotFound) as error:
        raise Failure(str(error), UNUSABLE) from error
    stderr.print(f"Key {revoked.id} for {revoked.name} is revoked.", soft_wrap=True, markup=False)
    tell(settings, "revoke key", key=revoked.id)


def _scopes(given: list[str]) -> list[Scope]:
    named = [name.strip() for each in given for name in each.split(",")]
    if odd := [name for name in named if name not in SCOPES]:
        raise Failure(f"--scope {odd[0]} is none of {', '.join(SCOPES)}.", UNUSABLE)
    return cast(list[Scope], named)


def _row(key: Key) -> list[str]:
    limit = f"{key.tokens_per_minute:,}" if key.tokens_per_minute else "no limit"
    collections = ", ".join(key.collections) or "all"
    return [
        key.id,
        key.name,
        ", ".join(key.scopes),
        collections,
        limit,
        key.created_at[:10],
        (key.revoked_at or "")[:10],
    ]
