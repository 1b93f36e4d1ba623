"""Files that are text already: decoded, and tables of values written as Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import IO, Any

from app.files.kinds import BYTE_ORDER_MARKS
from app.files.types import Converted, Unreadable
from app.files.writer import Writer, clean

SAMPLE = 16_384
DELIMITERS = ",;\t|"
SAID = re.compile(rf"sep=([{DELIMITERS}])\n", re.I)
LONGEST_FIELD = 2**20

UTF8 = "utf-8-sig"
"""With or without a mark that says so."""

BREAKS = {ord("\v"): "\n", ord("\f"): "\n"}
"""What ends a line or a page beside the line feed: words are parted by it."""

BLANK = " \t"
DEEPEST = 6
FENCE = ("```", "~~~")


def read_text(file: IO[bytes], most: int) -> Converted:
    return Converted(_bounded(decode(file.read()), most))


def read_markdown(file: IO[bytes], most: int) -> Converted:
    text = _bounded(decode(file.read()), most)
    return Converted(text, first_heading(text))


def read_csv(file: IO[bytes], most: int) -> Converted:
    text, form = _parted(decode(file.read()))
    csv.field_size_limit(LONGEST_FIELD)
    writer = Writer(most)
    try:
        writer.table(csv.reader(io.StringIO(text, newline=""), **form))
    except csv.Error as error:
        raise Unreadable(f"can't be read as CSV: {error}") from error
    return writer.done()


def decode(raw: bytes) -> str:
    """UTF-8 or UTF-16 where they say so, Windows' Latin otherwise; anything else would be guessed."""
    for each in _readings(raw):
        if each is not None and "\0" not in each:
            return clean(each.translate(BREAKS))
    raise Unreadable("is neither UTF-8 nor UTF-16 nor Latin text: save it as UTF-8")


def _readings(raw: bytes) -> Iterator[str | None]:
    yield _strictly(raw, "utf-16" if raw.startswith(BYTE_ORDER_MARKS) else UTF8)
    yield mended(raw)
    yield _strictly(raw, "cp1252")


def _strictly(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def mended(raw: bytes) -> str | None:
    """As UTF-8 if most of it is, with a mark in the place of what is not: a byte that was lost spoils no other."""
    text = raw.decode(UTF8, "replace")
    lost, beyond_ascii = text.count("\ufffd"), len(text) - len(text.encode("ascii", "ignore"))
    return text if 2 * lost <= beyond_ascii else None


def first_heading(text: str) -> str:
    """A comment in a block of code is none."""
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith(FENCE)
        if not fenced and (title := _heading(line)):
            return title
    return ""


def _heading(line: str) -> str:
    """What a line says as a heading. A run of # behind it closes it only after a blank: "# C#" is "C#"."""
    behind = line.lstrip("#")
    title = behind.strip(BLANK)
    if not 0 < len(line) - len(behind) <= DEEPEST or not behind.startswith(tuple(BLANK)):
        return ""
    said = title.rstrip("#")
    return title if said and not said.endswith(tuple(BLANK)) else said.rstrip(BLANK)


def _bounded(text: str, most: int) -> str:
    if len(text) > most:
        raise Unreadable(f"holds {len(text)} characters; at most {most} are allowed: split it")
    return text


def _parted(text: str) -> tuple[str, dict[str, Any]]:
    """The values, and how they are parted: some programs say it in a line of its own in front of the header."""
    if said := SAID.match(text):
        return text[said.end() :], {"delimiter": said[1]}
    return text, _format(text)


def _format(text: str) -> dict[str, Any]:
    """What parts the values, and whether blanks do beside it. Quotes are as everybody has them: a guess loses some."""
    try:
        found = csv.Sniffer().sniff(text[:SAMPLE], DELIMITERS)
    except csv.Error:
        return {}
    return {"delimiter": found.delimiter, "skipinitialspace": found.skipinitialspace}
