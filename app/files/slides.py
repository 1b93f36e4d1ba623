"""PPTX to Markdown: each slide is a page, with its title as heading, its text, tables and notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any

from pptx import Presentation
from pptx.shapes.group import GroupShape

from app.files.types import Converted
from app.files.writer import Writer


def read_pptx(file: IO[bytes], most: int) -> Converted:
    presentation = Presentation(file)
    writer = Writer(most)
    for slide in presentation.slides:
        writer.page()
        title = slide.shapes.title
        if title is not None:
            writer.heading(2, _lines(title.text_frame.text))
        for shape in _shapes(slide.shapes):
            if title is None or shape.shape_id != title.shape_id:
                _write(writer, shape)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            writer.paragraph(_lines(slide.notes_slide.notes_text_frame.text))
    return writer.done(presentation.core_properties.title or "")


def _shapes(shapes: Iterable[Any]) -> Iterator[Any]:
    """Every shape, those of groups included."""
    for shape in shapes:
        if isinstance(shape, GroupShape):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _write(writer: Writer, shape: Any) -> None:
    if getattr(shape, "has_table", False):
        writer.table([_lines(cell.text) for cell in row.cells] for row in shape.table.rows)
    elif shape.has_text_frame:
        writer.items((paragraph.level, _lines(paragraph.text)) for paragraph in shape.text_frame.paragraphs)


def _lines(text: str) -> str:
    """Where a line was broken within a paragraph stands a vertical tab, which no text needs and words are parted by."""
    return text.replace("\v", "\n")
