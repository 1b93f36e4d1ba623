"""Options that several commands share."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app.settings import Settings


def setting(name: str) -> Any:
    """A flag for a setting, with the setting's own words; what is not given is left to environment and file."""
    field = Settings.model_fields[name]
    usual = "none" if field.default in (None, "") else field.default
    return typer.Option(help=field.description, show_default=f"WINNOW_{name.upper()}, or {usual}")


Url = Annotated[
    str | None,
    typer.Option(
        help="Address of a running service (or WINNOW_URL); without one the data directory is opened right here, which "
        "can't be done while a service works there."
    ),
]
DataDir = Annotated[Path | None, setting("data_dir")]


def finite(given: float | None) -> float | None:
    """JSON has no other numbers."""
    if given is not None and not isfinite(given):
        raise typer.BadParameter(f"{given} is not a number that anything compares with.")
    return given


def condition(text: str | None) -> Any:
    """A filter as JSON; what it holds is for the service to judge."""
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"{error}. A filter is JSON: '{{\"year\": 2020}}'", param_hint="--filter") from error
