"""Calibrations that a collection has: kept, shown, carried there from elsewhere, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from app.quality.calibrate import Findings
from app.quality.reliability_page import render
from app.terminal import reliability
from app.terminal.bench import check_extra, write
from app.terminal.client import REFUSED, UNUSABLE, Client, Failure, Target, connect, read_json
from app.types import Calibration, Mode

Shown = tuple[Calibration, Findings | None]
"""A calibration with its figures, if another version of Winnow has not written them."""


def place(collection: str) -> str:
    """Where the service has them."""
    return f"/collections/{quote(collection, safe='')}/calibration"


async def keep(client: Client, collection: str, body: Any, *, quiet: bool = False) -> None:
    kept = read_json(await client.ask("PUT", place(collection), json=body))
    if not quiet:
        _print(f"Kept for {kept['mode']} searches of '{collection}'.")


def carry(path: Path, collection: str, target: Target) -> None:
    """Keep what another installation found out; the service refuses what other models made."""
    try:
        body = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise Failure(f"{path} is no calibration: {error}. Write one with --output.", UNUSABLE) from error

    async def put() -> None:
        async with connect(target) as client:
            await keep(client, collection, body)

    asyncio.run(put())


def show(collection: str, mode: Mode | None, html: Path | None, target: Target, *, as_json: bool) -> None:
    """What stands, and since when."""
    known = asyncio.run(_ask("GET", collection, target))
    found = [each for each in known["calibrations"] if mode in (None, each["mode"])]
    if as_json:
        typer.echo(orjson.dumps(known | {"calibrations": found}).decode())
    elif not found:
        which = f"calibration for {mode} searches" if mode else "calibration"
        raise Failure(f"'{collection}' has no {which}: make one with `winnow calibrate DATASET`.", REFUSED)
    else:
        for each in found:
            _tell(collection, each)
    if html:
        _save(html, collection, [_read(each) for each in found])


def forget(collection: str, target: Target) -> None:
    asyncio.run(_ask("DELETE", collection, target))
    _print(f"The calibrations of '{collection}' are forgotten.")


async def _ask(method: str, collection: str, target: Target) -> Any:
    async with connect(target) as client:
        response = await client.ask(method, place(collection))
        return read_json(response) if response.content else None


def _tell(collection: str, kept: dict[str, Any]) -> None:
    calibration, found = _read(kept)
    _print(f"Kept on {calibration.created_at}.")
    if kept["trouble"]:
        _print(Text(f"It does not hold any more: {kept['trouble']}.", "bold red"))
    if found:
        _print(reliability.findings(found, collection, calibration))
    else:
        _print(f"{collection}, {calibration.mode}: {calibration.advice or 'searches are reranked.'}")
        _print("Its figures are of another version of Winnow and can't be shown: calibrate again for new ones.")


def _read(kept: dict[str, Any]) -> Shown:
    own = {field.name for field in fields(Calibration)}
    calibration = TypeAdapter(Calibration).validate_python({key: kept[key] for key in kept if key in own})
    try:
        return calibration, TypeAdapter(Findings).validate_python(calibration.measured)
    except ValidationError:
        return calibration, None


def _save(html: Path, collection: str, every: Sequence[Shown]) -> None:
    """Those that have figures, as one page."""
    check_extra()
    whole = [(calibration, found) for calibration, found in every if found]
    if not whole:
        raise Failure(f"There are no figures to make {html} of: calibrate again.", REFUSED)
    write(html, render(collection, whole).encode())


def _print(what: Any) -> None:
    Console(highlight=False).print(what, soft_wrap=isinstance(what, str))
