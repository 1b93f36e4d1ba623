"""DOCX to Markdown: paragraphs by their style, tables, and pages as Word last laid them out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

import docx
from docx.document import Document
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml.ns import qn
from docx.oxml.parser import OxmlElement, parse_xml
from docx.table import Table
from docx.text.paragraph import Paragraph

from app.files.types import Converted
from app.files.writer import Writer

HEADING = re.compile(r"heading (\d)")
CODE = re.compile(r"code|preformatted|verbatim|listing")
TEXT, BREAK, LAID_OUT = (qn("w:t"), qn("m:t")), qn("w:br"), qn("w:lastRenderedPageBreak")
WRITTEN = {qn("w:tab"): "\t", qn("w:cr"): "\n", BREAK: "\n", qn("w:noBreakHyphen"): "-"}
"""Characters that are elements of their own."""
BEFORE = {qn("m:den"): "/", qn("m:sup"): "^", qn("m:sub"): "_"}
"""What stands in front of a formula's parts where it is a line of text."""
PASSED = frozenset(
    (qn("w:pPr"), qn("w:rPr"), qn("w:del"), qn("w:moveFrom"),
     "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback")
)  # fmt: skip
"""What is not shown: how things look, what was taken out or away, and what older readers get in place of a text box."""
PARAGRAPH, TABLE, ROW, CELL = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
WRAPPERS = (qn("w:sdt"), qn("w:sdtContent"), qn("w:customXml"))
"""Stand around paragraphs, tables, rows and cells alike: controls that one fills in, a cover page, parts of forms."""
GALLERY, CONTENTS = qn("w:docPartGallery"), "Table of Contents"
NOTES = {
    RELATIONSHIP_TYPE.FOOTNOTES: (qn("w:footnote"), qn("w:footnoteReference")),
    RELATIONSHIP_TYPE.ENDNOTES: (qn("w:endnote"), qn("w:endnoteReference")),
}
"""By the part that they are in: what each note is there, and what refers to it from the text."""
LEVEL, ID = qn("w:ilvl"), qn("w:id")
WIDEST = 100
"""Columns that one cell may span."""
PAGE = "\f"
"""Stands in a paragraph's text where the next page begins."""


def read_docx(file: IO[bytes], most: int) -> Converted:
    document = docx.Document(file)
    _place_notes(document)
    breaks = _breaks(document)
    writer = Writer(most)
    if breaks:
        writer.page()
    items: list[tuple[int, str]] = []
    code: list[str] = []
    for block in _blocks(document.element.body, document):
        shape, text = _shape(block), "" if isinstance(block, Table) else _text(block, breaks)
        goes_on = shape if PAGE not in text else ""
        if goes_on != "item":
            writer.items(items)
            items = []
        if goes_on != "code":
            writer.code("\n".join(code))
            code = []
        if goes_on == "item":
            items.append((_depth(block), text))
        elif goes_on == "code":
            code.append(text)
        else:
            _write(writer, document, block, shape, text)
    writer.items(items)
    writer.code("\n".join(code))
    return writer.done(document.core_properties.title or "")


def _place_notes(document: Document) -> None:
    """Each note with its number behind the block that refers to it, as a paragraph: Word has them elsewhere."""
    notes = _notes(document)
    told = [
        each for each in document.element.body.iter(*(reference for _, reference in NOTES.values())) if _shown(each)
    ]
    for number, reference in reversed(list(enumerate(told, 1))):
        text = notes.pop((reference.tag, reference.get(ID)), "")
        *_, block = reference.iterancestors(PARAGRAPH, TABLE)
        mark, note = OxmlElement("w:t"), OxmlElement("w:p")
        mark.text = f"[{number}]"
        note.add_r().text = f"[{number}] {text}"
        if text:
            reference.addprevious(mark)
            block.addnext(note)


def _notes(document: Document) -> dict[tuple[str, str], str]:
    """The text of each, by what refers to it and its id."""
    found = {}
    for related in document.part.rels.values():
        if related.reltype in NOTES and not related.is_external:
            tag, reference = NOTES[related.reltype]
            for note in parse_xml(related.target_part.blob).iterchildren(tag):
                found[reference, note.get(ID)] = " ".join("".join(_pieces(note, frozenset())).split())
    return found


def _shown(element: Any) -> bool:
    return not any(each.tag in PASSED for each in element.iterancestors())


def _breaks(document: Document) -> frozenset[str]:
    """Which marks tell pages apart: those of the last layout if there are any, otherwise the author's own."""
    body = document.element.body
    if next(body.iter(LAID_OUT), None) is not None:
        return frozenset({LAID_OUT})
    return frozenset({BREAK} if any(_is_page_break(each) for each in body.iter(BREAK)) else ())


def _blocks(around: Any, document: Document) -> Iterator[Paragraph | Table]:
    for element in _within(around, (PARAGRAPH, TABLE)):
        yield Paragraph(element, document) if element.tag == PARAGRAPH else Table(element, document)


def _within(around: Any, tags: Sequence[str]) -> Iterator[Any]:
    """What stands there, in wrappers or without; a table of contents says nothing that its headings do not."""
    for element in around:
        if element.tag in tags:
            yield element
        elif element.tag in WRAPPERS and not _is_contents(element):
            yield from _within(element, tags)


def _is_contents(wrapper: Any) -> bool:
    return any(each.get(qn("w:val")) == CONTENTS for each in wrapper.iterfind(f"*/*/{GALLERY}"))


def _rows(table: Any, document: Document) -> Iterator[list[str]]:
    """Each cell once and in its column; one that goes on below says the same there, so that each row stands alone."""
    above: dict[int, str] = {}
    for row in _within(table, (ROW,)):
        told = [""] * min(row.grid_before, WIDEST)
        for cell in _within(row, (CELL,)):
            column = len(told)
            text = above.get(column, "") if cell.vMerge == "continue" else _cell(cell, document)
            above[column] = text
            told += [text, *[""] * (min(cell.grid_span, WIDEST) - 1)]
        yield told


def _cell(cell: Any, document: Document) -> str:
    """All that stands in it; a table within it becomes lines, since Markdown has no such thing."""
    lines: list[str] = []
    for block in _blocks(cell, document):
        if isinstance(block, Paragraph):
            lines.append(_text(block, frozenset()))
        else:
            lines += [", ".join(filter(None, row)) + ";" for row in _rows(block._tbl, document)]
    return "\n".join(lines).strip().removesuffix(";")


def _write(writer: Writer, document: Document, block: Paragraph | Table, shape: str, text: str) -> None:
    if isinstance(block, Table):
        writer.table(_rows(block._tbl, document))
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
    return "".join(_pieces(paragraph._p, breaks))


def _pieces(around: Any, breaks: frozenset[str]) -> Iterator[str]:
    """All that is shown of a paragraph, links, fields and text boxes included, with the places where a page begins."""
    for element in around:
        if element.tag in breaks and (element.tag == LAID_OUT or _is_page_break(element)):
            yield PAGE
        elif element.tag in TEXT:
            yield element.text or ""
        elif element.tag in WRITTEN:
            yield WRITTEN[element.tag]
        elif element.tag not in PASSED:
            around_box = "\n" if element.tag == PARAGRAPH else ""
            yield around_box + BEFORE.get(element.tag, "")
            yield from _pieces(element, breaks)
            yield around_box


def _is_page_break(element: Any) -> bool:
    return bool(element.get(qn("w:type")) == "page")
