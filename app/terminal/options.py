"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.settings import Settings


def setting(name: str) -> Any:
    """A flag for a setting, with the setting's own words; what is not given is left to environment and file."""
    field = Settings.model_fields[name]
    return typer.Option(help=field.description, show_default=f"WINNOW_{name.upper()}, or {field.default or 'none'}")


Url = Annotated[
    str | None,
    typer.Option(
        help="Address of a running service (or WINNOW_URL); without one the data directory is opened right here."
    ),
]
DataDir = Annotated[Path | None, setting("data_dir")]
