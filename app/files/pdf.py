"""PDF to Markdown: a page's lines by their size, place and font, and its ruled tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from typing import IO, Literal, TypeGuard, cast

import pdfplumber
from pdfminer.layout import LTAnno, LTChar, LTComponent, LTCurve, LTTextBox, LTTextLine
from pdfminer.pdfdocument import PDFPasswordIncorrect
from pdfplumber.page import Page
from pdfplumber.utils.exceptions import PdfminerException

from app.files.types import Converted, Unreadable
from app.files.writer import Writer

LARGER = 1.15
"""So many times the size of the running text, and a line is a heading."""

LONGEST_HEADING = 160
LEVELS = 4
BULLET = re.compile(r"^\s*(?:[•‣▪◦●○■·\u2013-]|\(cid:\d+\))\s+")
BLANK = re.compile(r"(?:[•‣▪◦●○■·]|\(cid:\d+\))?")
"""A line without words, stripped; a bullet that stands apart from its item is one."""
MONOSPACED = re.compile(r"mono|courier|consol|menlo|typewriter|cmtt", re.I)
BROKEN_WORD = re.compile(r"(?<=[^\W\d_])(?:\u00ad|([-\u2010]))\n(?=[^\W\d_])")
"""A hyphen in it may be the word's own, one that is soft is not."""
BLANK_SHARE = 0.2
"""Of a line's height: so far apart, letters are of two words."""


Shape = Literal["heading", "code", "list", "text"]


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    size: float
    code: bool
    left: float
    char_width: float


@dataclass(frozen=True, slots=True)
class Box:
    """Lines that belong together, or a table's rows, with where its top is."""

    lines: tuple[Line, ...]
    rows: tuple[tuple[str | None, ...], ...]
    top: float


def read_pdf(file: IO[bytes], most: int) -> Converted:
    try:
        with pdfplumber.open(cast(BufferedReader, file), laparams={}) as pdf:
            title = str((pdf.metadata or {}).get("Title") or "")
            pages = [_boxes(page) for page in pdf.pages]
    except PdfminerException as error:
        if error.args and isinstance(error.args[0], PDFPasswordIncorrect):
            raise Unreadable("has a password: save it without one") from error
        raise
    if not any(pages):
        raise Unreadable("holds no text: it is probably scanned, so let a text recognition (OCR) go over it first")
    writer, levels = Writer(most), _levels(pages)
    for boxes in pages:
        writer.page()
        for box in boxes:
            _write(writer, box, levels)
    return writer.done(title)


def _boxes(page: Page) -> list[Box]:
    """What stands on a page in the order of reading; a table takes the place of the lines within it."""
    ruled = any(isinstance(each, LTCurve) for each in page.layout)  # lines and rectangles are curves as well
    tables = page.find_tables() if ruled else []  # looking for them takes as long as all the rest
    areas = [table.bbox for table in tables]
    boxes = []
    turned: list[LTChar] = []
    for box in page.layout:
        if isinstance(box, LTTextBox):
            lines = tuple(_lines(box, page.height, areas, turned))
            if lines:
                boxes.append(Box(lines, (), float(page.height - box.y1)))
    if turned:
        boxes.append(Box(tuple(_upright(turned)), (), float(page.height)))
    for table in tables:
        rows = tuple(tuple(row) for row in table.extract())
        if any(cell for row in rows for cell in row):
            below = (at for at, box in enumerate(boxes) if box.top >= table.bbox[1])
            boxes.insert(next(below, len(boxes)), Box((), rows, table.bbox[1]))
    page.close()
    return boxes


def _lines(box: LTTextBox, height: float, areas: Sequence[tuple[float, ...]], turned: list[LTChar]) -> Iterator[Line]:
    """Letters that run up or down the page are put aside: here they stand one by one."""
    for line in box:
        if not isinstance(line, LTTextLine) or _within(line, height, areas):
            continue
        turned += (each for each in line if _is_turned(each))
        kept = [each for each in line if not _is_turned(each)]
        text = "".join(each.get_text() for each in kept).rstrip()
        if not BLANK.fullmatch(text.lstrip()):
            chars = [each for each in kept if isinstance(each, LTChar)]
            sizes = Counter(round(each.size, 1) for each in chars)
            code = sum(bool(MONOSPACED.search(each.fontname)) for each in chars) > len(chars) / 2
            width = sum(each.width for each in chars) / max(len(chars), 1)
            left = next((each.x0 for each in chars if not each.get_text().isspace()), line.x0)
            yield Line(text, sizes.most_common(1)[0][0] if sizes else 0.0, code, left, width)


def _is_turned(piece: LTChar | LTAnno) -> TypeGuard[LTChar]:
    return isinstance(piece, LTChar) and abs(piece.matrix[1]) > abs(piece.matrix[0])


def _upright(chars: Sequence[LTChar]) -> Iterator[Line]:
    """Their lines as a reader sees them who turns the page. They are no headings, whatever their size."""
    lines: dict[tuple[int, int], list[LTChar]] = {}
    for each in chars:
        up = 1 if each.matrix[1] > 0 else -1
        lines.setdefault((up, up * round(each.matrix[4])), []).append(each)
    for (up, _), line in sorted(lines.items()):
        line.sort(key=lambda each: up * each.y0)
        text = line[0].get_text()
        for before, each in pairwise(line):
            apart = each.y0 - before.y1 if up > 0 else before.y0 - each.y1
            text += " " * (apart > BLANK_SHARE * each.width) + each.get_text()
        if told := " ".join(text.split()):
            yield Line(told, 0.0, False, line[0].x0, line[0].height)


def _within(line: LTComponent, height: float, areas: Sequence[tuple[float, ...]]) -> bool:
    x, y = (line.x0 + line.x1) / 2, height - (line.y0 + line.y1) / 2
    return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in areas)


def _levels(pages: Sequence[Sequence[Box]]) -> dict[float, int]:
    """Heading levels by size: whatever is clearly larger than most of the text."""
    sizes: Counter[float] = Counter()
    for boxes in pages:
        for box in boxes:
            for line in box.lines:
                sizes[line.size] += len(line.text) if line.size else 0
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    larger = sorted((size for size in sizes if size > LARGER * body), reverse=True)
    return {size: min(level, LEVELS) for level, size in enumerate(larger, 1)}


def _write(writer: Writer, box: Box, levels: dict[float, int]) -> None:
    if box.rows:
        writer.table(box.rows)
        return
    for shape, lines in _runs(box.lines, levels):
        text = "\n".join(line.text for line in lines)
        if shape == "heading":
            writer.heading(levels[lines[0].size], text)
        elif shape == "code":
            writer.code(_indented(lines))
        elif shape == "list":
            writer.items((0, item) for item in _items(lines))
        else:
            writer.paragraph(_whole(text).replace("\n", " "))


def _whole(text: str) -> str:
    """Without hyphens that were only put in where a line ends: words of small letters have seldom one of their own."""

    def joined(found: re.Match[str]) -> str:
        small = text[found.start() - 1].islower() and text[found.end()].islower()
        return found[0] if found[1] and not small else ""

    return BROKEN_WORD.sub(joined, text)


def _runs(lines: Sequence[Line], levels: dict[float, int]) -> Iterator[tuple[Shape, list[Line]]]:
    """Neighbouring lines of one shape; text beneath an item goes on with it."""
    held: list[Line] = []
    before: tuple[Shape, float] = ("text", 0.0)
    for line in lines:
        shape = _shape(line, levels)
        shape = "list" if shape == "text" and before[0] == "list" else shape
        now = (shape, line.size if shape == "heading" else 0.0)
        if held and now != before:
            yield before[0], held
            held = []
        held.append(line)
        before = now
    if held:
        yield before[0], held


def _shape(line: Line, levels: dict[float, int]) -> Shape:
    if line.size in levels and len(line.text) <= LONGEST_HEADING:
        return "heading"
    if line.code:
        return "code"
    return "list" if BULLET.match(line.text) else "text"


def _items(lines: Sequence[Line]) -> list[str]:
    items: list[str] = []
    for line in lines:
        if BULLET.match(line.text) or not items:
            items.append(BULLET.sub("", line.text))
        else:
            items[-1] += " " + line.text.strip()
    return items


def _indented(lines: Sequence[Line]) -> str:
    """Code with the indentation that it is set with, which is not in the text of a PDF."""
    left = min(line.left for line in lines)
    return "\n".join(
        " " * round((line.left - left) / line.char_width if line.char_width else 0) + line.text.strip()
        for line in lines
    )
