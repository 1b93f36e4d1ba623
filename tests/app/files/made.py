"""Real files, made here: PDFs by hand, Office files by the libraries that read them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import docx
import openpyxl
import pptx
from docx.enum.text import WD_BREAK
from pptx.util import Inches

HELVETICA, COURIER = "F1", "F2"
LEFT, TOP, LEADING = 72, 760, 14


@dataclass(frozen=True)
class Text:
    """Lines of one size on a PDF's page."""

    lines: str
    size: int = 10
    font: str = HELVETICA
    left: int = LEFT
    turn: str = "1 0 0 1"
    """A matrix: `0 1 -1 0` runs up the page."""


@dataclass(frozen=True)
class Grid:
    """A ruled table on a PDF's page."""

    rows: Sequence[Sequence[str]]
    width: int = 120


def pdf(*pages: Sequence[Text | Grid], title: str = "", trailer: str = "") -> bytes:
    """A PDF as small as one can be: a catalogue, two fonts, and one stream of drawing for each page."""
    first, amount = 6, len(pages)
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(amount))
    parts = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {amount} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
        f"<< /Title ({title}) >>",
    ]
    fonts = "<< /Font << /F1 3 0 R /F2 4 0 R >> >>"
    for i, page in enumerate(pages):
        drawn = _drawn(page)
        look = f"/MediaBox [0 0 595 842] /Resources {fonts}"
        parts.append(f"<< /Type /Page /Parent 2 0 R {look} /Contents {first + 2 * i + 1} 0 R >>")
        parts.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    body, offsets = "%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{part}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(parts) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R /Info 5 0 R {trailer} >>\n"
    return f"{body}{end}startxref\n{len(body)}\n%%EOF\n".encode("latin-1")


def _drawn(page: Sequence[Text | Grid]) -> str:
    said, y = [], TOP
    for part in page:
        if isinstance(part, Text):
            for line in part.lines.split("\n"):
                escaped = line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
                said.append(f"BT /{part.font} {part.size} Tf {part.turn} {part.left} {y} Tm ({escaped}) Tj ET")
                y -= part.size + 4
        else:
            for row in part.rows:
                for column, cell in enumerate(row):
                    x = LEFT + column * part.width
                    said.append(f"{x} {y - 5} {part.width} 18 re S BT /F1 10 Tf {x + 4} {y} Td ({cell}) Tj ET")
                y -= 18
        y -= LEADING
    return "\n".join(said)


def encrypted_pdf() -> bytes:
    """Says that it has a password, as far as a reader looks before it gives up."""
    key = "28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A"
    said = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{key}> /U <{key}> /P -4 >> /ID [<00> <00>]"
    return pdf([Text("secret")], trailer=said)


def word(chapters: Sequence[tuple[str, str]] = (("Tides", "The moon pulls."),), title: str = "") -> bytes:
    """A chapter a page, each with a heading, text, a table, a list and code."""
    document = docx.Document()
    document.core_properties.title = title
    for number, (heading, text) in enumerate(chapters):
        if number:
            document.add_paragraph().add_run().add_break(WD_BREAK.PAGE)
        document.add_heading(heading, 1)
        document.add_paragraph(text)
        document.add_heading("Details", 2)
        table = document.add_table(rows=0, cols=2)
        for row in (("Port", "Height"), (heading, f"{number} m")):
            for cell, value in zip(table.add_row().cells, row, strict=True):
                cell.text = value
        for item in ("ebb", "flow"):
            document.add_paragraph(item, style="List Bullet")
    return _saved(document)


def word_of(body: str, **notes: Sequence[str]) -> bytes:
    """A Word document with this XML for its body, and for the paragraphs of each of its footnotes or endnotes."""
    raw = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as old, zipfile.ZipFile(raw, "w") as new:
        for part in old.namelist():
            content = old.read(part)
            if part == "word/document.xml":
                head, _, _ = content.partition(b"<w:body>")
                content = head + f"<w:body>{body}</w:body></w:document>".encode()
            if part == "word/_rels/document.xml.rels":
                content = content.replace(b"</Relationships>", _related(notes) + b"</Relationships>")
            new.writestr(part, content)
        for kind, each in notes.items():
            new.writestr(f"word/{kind}.xml", _noted(kind, each))
    return raw.getvalue()


def _related(parts: Iterable[str]) -> bytes:
    kinds = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    return "".join(f'<Relationship Id="n{each}" Type="{kinds}/{each}" Target="{each}.xml"/>' for each in parts).encode()


def _noted(kind: str, notes: Sequence[str]) -> str:
    """As Word has them: the line above all notes is one too."""
    tag = f"w:{kind.removesuffix('s')}"
    line = f'<{tag} w:type="separator" w:id="0"><w:p><w:r><w:separator/></w:r></w:p></{tag}>'
    said = "".join(f'<{tag} w:id="{number}">{note}</{tag}>' for number, note in enumerate(notes, 1))
    return f'<w:{kind} xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">{line}{said}</w:{kind}>'


def renumbered(raw: bytes, part: str) -> bytes:
    """An Office file whose main part has a number in its name."""
    new, name = io.BytesIO(), part.rpartition("/")[2]
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(new, "w") as made:
        for each in old.namelist():
            content = old.read(each).replace(f"{part}.xml".encode(), f"{part}2.xml".encode())
            made.writestr(each.replace(f"{name}.xml", f"{name}2.xml"), content)
    return new.getvalue()


def slides(*texts: str) -> bytes:
    presentation = pptx.Presentation()
    for number, text in enumerate(texts):
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        assert slide.shapes.title is not None
        slide.shapes.title.text = f"Slide {number}"
        slide.placeholders[1].text_frame.text = text
        slide.notes_slide.notes_text_frame.text = f"spoken {number}"
        grid = slide.shapes.add_table(2, 2, Inches(1), Inches(4), Inches(4), Inches(1)).table
        for row, values in enumerate((("Port", "Height"), ("Brest", f"{number} m"))):
            for column, value in enumerate(values):
                grid.cell(row, column).text = value
    return _saved(presentation)


def sheet(**sheets: Sequence[Sequence[object]]) -> bytes:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets.items():
        made = workbook.create_sheet(name)
        for row in rows:
            made.append(list(row))
    return _saved(workbook)


def bomb(megabytes: int = 64) -> bytes:
    """A Word document whose text is nothing but zeros: kilobytes that would unpack to as many megabytes."""
    raw = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as old, zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            with new.open(name, "w") as part:
                if name != "word/document.xml":
                    part.write(old.read(name))
                    continue
                for _ in range(megabytes):
                    part.write(bytes(2**20))
    return raw.getvalue()


def lying_bomb(claimed: int = 100, megabytes: int = 16) -> bytes:
    """The same, and its directory claims so many bytes."""
    size = (megabytes * 2**20).to_bytes(4, "little")
    return bomb(megabytes).replace(size, claimed.to_bytes(4, "little"))


def laughs(kind: str = "docx") -> bytes:
    """An Office file whose text is an entity of entities of entities."""
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    xml = f'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY l0 "lol">{entities}]>'
    whole = io.BytesIO(word() if kind == "docx" else sheet(One=[["a"]]))
    main = {"docx": "word/document.xml", "xlsx": "xl/worksheets/sheet1.xml"}[kind]
    raw = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(raw, "w") as new:
        for part in old.namelist():
            content = old.read(part)
            if part == main:
                content = xml.encode() + content.split(b"?>", 1)[-1].replace(b"Tides", b"&l11;").replace(
                    b"<v>0</v>", b"<v>&l11;</v>"
                )
            new.writestr(part, content)
    return raw.getvalue()


def _saved(document: object) -> bytes:
    raw = io.BytesIO()
    document.save(raw)  # type: ignore[attr-defined]  # all of them can be saved
    return raw.getvalue()
