"""CSV as spreadsheets read and write it.

A spreadsheet runs a cell that begins like a formula, and takes an id like 007, 1e5 or 2024-05 for a number or a date.
Such cells get an apostrophe in front, which is taken off when the file is read; so do cells that begin with one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import count
from pathlib import Path

from app.errors import WinnowError

DELIMITERS = (",", ";", "\t")
"""Where the comma is the decimal sign, spreadsheets write semicolons."""

ENCODING = "utf-8-sig"
"""With a byte order mark, without which Excel takes UTF-8 for something else; read with or without one."""

RISKY = re.compile(r"['=+\-@\t\r\n]|(?!(?:0|[1-9]\d{0,14})\Z)[\d.][\d.,:/eE+ -]*\Z")


class BadSheet(WinnowError):
    """A table that can't be read; the message names file and row."""


def read(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by the names in the first one, numbered as a spreadsheet numbers them; empty ones are passed over."""
    text = _text(path)
    reader = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows = _numbered(path, reader)
    _, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    if missing := [name for name in needed if name not in names]:
        raise BadSheet(f"{path} has no column '{missing[0]}': its first row must name {', '.join(needed)}.")
    for number, cells in rows:
        if any(cells[len(names) :]):
            raise BadSheet(f"{path}, row {number}: has more cells than the first row: is a quotation mark missing?")
        if any(cells):
            filled = cells + [""] * (len(names) - len(cells))
            yield number, dict(zip(names, filled, strict=False))


def write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding=ENCODING, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([shield(cell) for cell in row] for row in rows)


def shield(text: str) -> str:
    """The text as a cell that a spreadsheet leaves alone."""
    return f"'{text}" if RISKY.match(text) else text


def unshield(cell: str) -> str:
    return cell.removeprefix("'")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(ENCODING)
    except UnicodeDecodeError as error:
        raise BadSheet(f"{path} is not UTF-8 (byte {error.start}): save it as 'CSV UTF-8'.") from error
    except OSError as error:
        raise BadSheet(f"{path} can't be read: {error.strerror}.") from error


def _delimiter(text: str) -> str:
    first = text.split("\n", 1)[0]
    return max(DELIMITERS, key=first.count)


def _numbered(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for number in count(1):
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadSheet(f"{path}, row {number}: is not CSV: {error}.") from error
