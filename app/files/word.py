"""DOCX to Markdown: paragraphs by their style, tables, and pages as Word last laid them out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import docx
from docx.document import Document
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph

from app.files.types import Converted
from app.files.writer import Writer

HEADING = re.compile(r"heading (\d)")
CODE = re.compile(r"code|preformatted|verbatim|listing")
TEXT, TAB, BREAK, LAID_OUT = qn("w:t"), qn("w:tab"), qn("w:br"), qn("w:lastRenderedPageBreak")
LEVEL = qn("w:ilvl")
PAGE = "\f"
"""Stands in a paragraph's text where the next page begins."""


def read_docx(file: IO[bytes], most: int) -> Converted:
    document = docx.Document(file)
    breaks = _breaks(document)
    writer = Writer(most)
    if breaks:
        writer.page()
    items: list[tuple[int, str]] = []
    for block in document.iter_inner_content():
        shape, text = _shape(block), "" if isinstance(block, Table) else _text(block, breaks)
        if shape == "item" and PAGE not in text:
            items.append((_depth(block), text))
            continue
        writer.items(items)
        items = []
        _write(writer, block, shape, text)
    writer.items(items)
    return writer.done(document.core_properties.title or "")


def _breaks(document: Document) -> frozenset[str]:
    """Which marks tell pages apart: those of the last layout if there are any, otherwise the author's own."""
    body = document.element.body
    if next(body.iter(LAID_OUT), None) is not None:
        return frozenset({LAID_OUT})
    return frozenset({BREAK} if any(_is_page_break(each) for each in body.iter(BREAK)) else ())


def _write(writer: Writer, block: Paragraph | Table, shape: str, text: str) -> None:
    if isinstance(block, Table):
        writer.table([cell.text for cell in row.cells] for row in block.rows)
        return
    first, *rest = text.split(PAGE)
    _write_paragraph(writer, shape, first)
    for part in rest:
        writer.page()
        _write_paragraph(writer, shape, part)


def _write_paragraph(writer: Writer, shape: str, text: str) -> None:
    if found := HEADING.match(shape):
        writer.heading(int(found[1]), text)
    elif shape == "title":
        writer.heading(1, text)
    elif shape == "code":
        writer.code(text)
    elif shape == "item":
        writer.items([(0, text)])
    else:
        writer.paragraph(text)


def _shape(block: Paragraph | Table) -> str:
    if isinstance(block, Table):
        return "table"
    style = (block.style.name or "").lower() if block.style is not None else ""
    if HEADING.match(style) or style == "title":
        return style
    if CODE.search(style):
        return "code"
    numbered = block._p.pPr is not None and block._p.pPr.numPr is not None
    return "item" if numbered or style.startswith("list") else "text"


def _depth(block: Paragraph | Table) -> int:
    """How far a list's item is indented; styles that number without saying so count as the outermost level."""
    level = next(block._p.iter(LEVEL), None) if isinstance(block, Paragraph) else None
    return int(level.get(qn("w:val")) or 0) if level is not None else 0


def _text(paragraph: Paragraph, breaks: frozenset[str]) -> str:
    return "".join(_pieces(paragraph, breaks))


def _pieces(paragraph: Paragraph, breaks: frozenset[str]) -> Iterator[str]:
    """All that is shown of a paragraph, links and fields included, with the places where a page begins."""
    for element in paragraph._p.iter(TEXT, TAB, BREAK, LAID_OUT):
        if element.tag in breaks and (element.tag == LAID_OUT or _is_page_break(element)):
            yield PAGE
        elif element.tag == TEXT:
            yield element.text or ""
        elif element.tag == BREAK:
            yield "\n"
        elif element.tag == TAB and element.getparent().tag == qn("w:r"):
            yield "\t"


def _is_page_break(element: Any) -> bool:
    return bool(element.get(qn("w:type")) == "page")
