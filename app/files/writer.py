"""Markdown as it is being written, page by page: whatever a file holds, the same few shapes come out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from app.files.types import Converted, Unreadable

UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
MARKS = re.compile(r"^([^\S\n]*)(#{1,6}(?=\s|$)|```|~~~|>|\|)", re.M)
"""At the beginning of a line these would be structure, and the text of a page is not."""

DEEPEST = 6
BETWEEN = " | "


class Writer:
    """Blocks in the order of the file. It gives up where more comes than is wanted, before memory does."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[str] = []
        self._length = 0
        self._pages: list[int] = []

    def page(self) -> None:
        """What comes from here on stands on the next page."""
        self._pages.append(self._length)

    def heading(self, level: int, text: str) -> None:
        if title := " ".join(clean(text).split()):
            self._write(f"{'#' * min(max(level, 1), DEEPEST)} {title}")

    def paragraph(self, text: str) -> None:
        self._write(MARKS.sub(r"\1\\\2", clean(text)).strip())

    def items(self, items: Iterable[tuple[int, str]]) -> None:
        """A list; each item with its depth."""
        told = [("  " * depth + "- " + " ".join(clean(text).split())) for depth, text in items if text.strip()]
        self._write("\n".join(told))

    def code(self, text: str) -> None:
        if text.strip():
            self._write(f"```\n{clean(text).strip(chr(10))}\n```")

    def table(self, rows: Iterable[Sequence[object]]) -> bool:
        """The first row that says anything is the header; rows and columns that say nothing are left out. Whether
        there was any."""
        told: list[list[str]] = []
        length = 0
        for cells in rows:
            row = [_cell(cell) for cell in cells]
            if any(row):
                told.append(row)
                length += sum(map(len, row)) + len(BETWEEN) * len(row)
                self._check(length)
        self._write("\n".join(_lines(told)))
        return bool(told)

    def done(self, title: str = "") -> Converted:
        text = "".join(self._parts).rstrip()
        return Converted(text, " ".join(clean(title).split()), tuple(min(each, len(text)) for each in self._pages))

    def _write(self, block: str) -> None:
        if block:
            self._check(len(block))
            self._parts.append(block + "\n\n")
            self._length += len(block) + 2

    def _check(self, more: int) -> None:
        if self._length + more > self._most:
            raise Unreadable(f"holds more than {self._most} characters: split it, or raise WINNOW_MAX_TEXT_CHARS")


def clean(text: str) -> str:
    """Without what no text needs: control characters, and halves of characters."""
    return UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).encode("utf-8", "replace").decode()


def _cell(value: object) -> str:
    return " ".join(clean("" if value is None else str(value)).split()).replace("|", "\\|")


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table, with a rule below its header."""
    columns = sorted({column for row in rows for column, cell in enumerate(row) if cell})
    for number, row in enumerate(rows):
        yield f"| {BETWEEN.join(row[column] if column < len(row) else '' for column in columns)} |"
        if not number:
            yield f"|{' --- |' * len(columns)}"
