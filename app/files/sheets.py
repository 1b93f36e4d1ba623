"""XLSX to Markdown: each sheet a heading and a table of the values that its cells show."""

from __future__ import annotations

from datetime import datetime, time
from typing import IO

from openpyxl import load_workbook

from app.files.types import Converted
from app.files.writer import Writer


def read_xlsx(file: IO[bytes], most: int) -> Converted:
    workbook = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    writer, filled = Writer(most), False
    for sheet in workbook.worksheets:
        writer.heading(1, sheet.title)
        sheet.reset_dimensions()  # a sheet may claim to be a million columns wide, and rows would be filled up
        filled |= writer.table([_shown(value) for value in row] for row in sheet.iter_rows(values_only=True))
    return writer.done(workbook.properties.title or "") if filled else Converted("")


def _shown(value: object) -> object:
    """A day is kept as its midnight, and the end of a line in some sheets by the name that XML has for it."""
    if isinstance(value, str):
        return value.replace("_x000D_", "\n")
    return value.date() if isinstance(value, datetime) and value.time() == time.min else value
