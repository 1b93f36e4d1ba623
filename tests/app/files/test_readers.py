"""Each kind becomes Markdown with its structure and pages, and whatever is wrong with a file is said."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from time import process_time

import docx
import pytest
from docx.enum.style import WD_STYLE_TYPE

from app.files.convert import convert
from app.files.kinds import kind_of
from app.files.types import Kind, Unreadable
from app.files.writer import Writer
from tests.app.files.made import (
    COURIER,
    Grid,
    Text,
    bomb,
    encrypted_pdf,
    laughs,
    lying_bomb,
    pdf,
    renumbered,
    sheet,
    slides,
    word,
    word_of,
)

MOST, MEMORY = 200_000, 2**30
PROSE = "The moon pulls on the ocean, and so\nthe water rises twice a day at every coast\nthat is open to it."

TABLE = "| Port | Height |\n| --- | --- |\n| Brest | 6 m |"


def read(raw: bytes, kind: Kind, most: int = MOST) -> tuple[str, str, list[int]]:
    made = convert(io.BytesIO(raw), kind, most, MEMORY)
    return made["text"], made["title"], list(made["pages"])


def refusal(raw: bytes, kind: Kind, most: int = MOST) -> str:
    with pytest.raises(Unreadable) as caught:
        convert(io.BytesIO(raw), kind, most, MEMORY)
    return str(caught.value)


def on_pages(text: str, pages: list[int]) -> list[str]:
    return [text[start:end] for start, end in zip(pages, [*pages[1:], len(text)], strict=True)]


def test_a_pdf_becomes_headings_paragraphs_lists_and_code_page_by_page() -> None:
    raw = pdf(
        [Text("Tides", 20), Text("Spring tides", 14), Text(PROSE), Text("- ebb\n- flow")],
        [Text("Code", 14), Text("def f(x):\n    return x + 1", 9, COURIER), Text("The end.")],
        title="Of the sea",
    )
    text, title, pages = read(raw, "pdf")
    first, second = on_pages(text, pages)
    assert title == "Of the sea"
    assert first.startswith(f"# Tides\n\n## Spring tides\n\n{PROSE.replace(chr(10), ' ')}\n\n- ebb\n- flow")
    assert second == "## Code\n\n```\ndef f(x):\n    return x + 1\n```\n\nThe end."


def test_a_ruled_table_of_a_pdf_becomes_a_table_in_its_place() -> None:
    raw = pdf(
        [Text(PROSE), Grid([["Port", "Height"], ["Brest", "6 m"], ["St. Malo", "12 m"]]), Text("After it.\n" * 3)]
    )
    text, _, _ = read(raw, "pdf")
    assert "| Port | Height |\n| --- | --- |\n| Brest | 6 m |\n| St. Malo | 12 m |" in text
    assert text.index("every coast") < text.index("| Port") < text.index("After it.")
    assert text.count("Brest") == 1


def test_columns_of_a_pdf_are_read_one_after_the_other() -> None:
    left, right = (
        Text("left one\nleft two\nleft three\n" * 4),
        Text("right one\nright two\nright three\n" * 4, left=320),
    )
    text, _, _ = read(pdf([left], [right]), "pdf")
    assert "left" not in text.split("right", 1)[1]


def test_text_of_a_page_is_no_structure() -> None:
    text, _, _ = read(pdf([Text("# 1 in the charts"), Text("| pipe"), Text("> greater")]), "pdf")
    assert [line for line in text.splitlines() if line] == ["\\# 1 in the charts", "\\| pipe", "\\> greater"]


def test_words_broken_at_the_end_of_a_line_are_whole_again() -> None:
    text, _, _ = read(pdf([Text("the reser-\nvation of a well-known\nplace")]), "pdf")
    assert text == "the reservation of a well-known place"


@pytest.mark.parametrize(
    ("text", "whole"),
    [("the reser\xad\nvation", "the reservation"), ("the Grö\xad\nße", "the Größe"), ("Jean-\nPaul", "Jean- Paul")],
    ids=["soft", "small letters", "a name"],
)
def test_of_hyphens_at_the_end_of_a_line_those_go_that_are_no_words_own(text: str, whole: str) -> None:
    letters = b"/Encoding << /BaseEncoding /WinAnsiEncoding /Differences [173 /uni00AD] >>"
    raw = pdf([Text(text)]).replace(b"/BaseFont /Helvetica", b"/BaseFont /Helvetica " + letters)
    assert read(raw, "pdf")[0] == whole


def test_lines_of_a_pdf_that_run_up_or_down_the_page_are_lines() -> None:
    up, down = "0 1 -1 0", "0 -1 1 0"
    note = [Text("arXiv:1234", 20, left=40, turn=up)]
    table = [Text("low water", left=300, turn=down), Text("at Brest", left=280, turn=down)]
    text, _, _ = read(pdf([Text("Tides", 20), Text(PROSE), *note, *table]), "pdf")
    assert text == f"# Tides\n\n{PROSE.replace(chr(10), ' ')}\n\nlow water at Brest arXiv:1234"


def test_a_word_document_keeps_its_structure_and_pages() -> None:
    text, title, pages = read(word([("Tides", "The moon pulls."), ("Salt", "Rivers carry it.")], "Sea"), "docx")
    first, second = on_pages(text, pages)
    assert title == "Sea"
    assert first.startswith(
        "# Tides\n\nThe moon pulls.\n\n## Details\n\n| Port | Height |\n| --- | --- |\n| Tides | 0 m |"
    )
    assert "- ebb\n- flow" in first
    assert second.startswith("# Salt\n\nRivers carry it.")


def p(text: str, style: str = "") -> str:
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{styled}<w:r><w:t>{text}</w:t></w:r></w:p>"


def sdt(content: str, gallery: str = "") -> str:
    """A content control."""
    said = f'<w:docPartObj><w:docPartGallery w:val="{gallery}"/></w:docPartObj>' if gallery else ""
    return f"<w:sdt><w:sdtPr>{said}</w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def tr(*cells: str, before: str = "") -> str:
    return f"<w:tr>{before}{''.join(cells)}</w:tr>"


def tc(content: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{content}</w:tc>"


def tbl(*rows: str) -> str:
    return f"<w:tbl><w:tblPr/><w:tblGrid/>{''.join(rows)}</w:tbl>"


def test_content_controls_of_a_word_document_are_read_wherever_they_stand() -> None:
    table = tbl(tr(tc(p("Port")), tc(p("Height"))), sdt(tr(sdt(tc(sdt(p("Brest")))), tc(p("6 m")))))
    body = (
        sdt(p("The cover", "Title"), "Cover Pages"), sdt(p("Tides\t2"), "Table of Contents"),
        sdt(p("Tides", "Heading1") + sdt(p("The moon pulls."))), sdt(table), p("The end."),
    )  # fmt: skip
    text, _, _ = read(word_of("".join(body)), "docx")
    assert text == (
        "# The cover\n\n# Tides\n\nThe moon pulls.\n\n| Port | Height |\n| --- | --- |\n| Brest | 6 m |\n\nThe end."
    )


def test_merged_cells_of_a_word_document_stand_once_in_a_row_and_in_their_columns() -> None:
    wide, begins, goes_on = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    table = tbl(
        tr(tc(p("Port")), tc(p("Height"), wide), tc(p("Note"))),
        tr(tc(p("Brest"), begins), tc(p("low")), tc(p("1 m")), tc(p("a"))),
        tr(tc(p(""), goes_on), tc(p("high")), tc(p("7 m")), tc(p("b"))),
        tr(tc(p("12 m")), tc(p("c")), before='<w:trPr><w:gridBefore w:val="2"/></w:trPr>'),
        tr(tc(p("all"), '<w:gridSpan w:val="1000000000"/>')),
    )
    text, _, _ = read(word_of(table), "docx")
    assert text == (
        "| Port | Height |  | Note |\n| --- | --- | --- | --- |\n"
        "| Brest | low | 1 m | a |\n| Brest | high | 7 m | b |\n|  |  | 12 m | c |\n| all |  |  |  |"
    )


def test_a_table_within_a_cell_of_a_word_document_is_read_with_the_cell() -> None:
    inner = tbl(
        tr(tc(p("Brest")), tc(p("6 m"))), tr(tc(p("St. Malo")), tc(p("12 m") + tbl(tr(tc(p("spring")))) + p("")))
    )
    table = tbl(tr(tc(p("Coast")), tc(p("Ports"))), tr(tc(p("west")), tc(p("These:") + inner + p("and more"))))
    text, _, _ = read(word_of(table), "docx")
    assert text == ("| Coast | Ports |\n| --- | --- |\n| west | These: Brest, 6 m; St. Malo, 12 m spring; and more |")


def noted(text: str, note: int, kind: str = "footnote", more: str = "") -> str:
    return f'<w:p><w:r><w:t>{text}</w:t></w:r><w:r><w:{kind}Reference w:id="{note}"/></w:r>{more}</w:p>'


def test_notes_of_a_word_document_stand_behind_what_they_are_about() -> None:
    table = tbl(tr(tc(p("Port")), tc(p("Height"))), tr(tc(noted("Brest", 1, "endnote")), tc(noted("6 m", 3))))
    body = noted("The moon pulls", 2, more="<w:r><w:t>, they say.</w:t></w:r>") + table + p("The end.")
    raw = word_of(body, footnotes=[p("never"), p("So Newton,") + p("1687."), p("at most")], endnotes=[p("in France")])
    assert read(raw, "docx")[0] == (
        "The moon pulls[1], they say.\n\n[1] So Newton, 1687.\n\n"
        "| Port | Height |\n| --- | --- |\n| Brest[2] | 6 m[3] |\n\n[2] in France\n\n[3] at most\n\nThe end."
    )


def test_a_note_that_was_taken_out_of_a_word_document_is_not_read() -> None:
    gone = '<w:p><w:del><w:r><w:footnoteReference w:id="1"/></w:r></w:del><w:r><w:t>Ebb</w:t></w:r></w:p>'
    assert read(word_of(gone + noted("Flow", 9), footnotes=[p("So Newton")]), "docx")[0] == "Ebb\n\nFlow"


def test_a_formula_of_a_word_document_is_read_as_a_line() -> None:
    m = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    a, b, two = (f"<m:r><m:t>{each}</m:t></m:r>" for each in ("E=m", "c", "2"))
    power = f"<m:sSup><m:e>{b}</m:e><m:sup>{two}</m:sup></m:sSup>"
    half = f"<m:f><m:num>{b}</m:num><m:den>{two}</m:den></m:f>"
    lines = [f"<w:r><w:t>Thus </w:t></w:r><m:oMath {m}>{a}{power}</m:oMath>", f"<m:oMath {m}>{half}</m:oMath>"]
    body = "".join(f"<w:p>{each}</w:p>" for each in lines)
    assert read(word_of(body), "docx")[0] == "Thus E=mc^2\n\nc/2"


def test_a_text_box_of_a_word_document_is_read_once_and_line_by_line() -> None:
    mc = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    box = f"<w:txbxContent>{p('Ports')}{p('Brest')}</w:txbxContent>"
    both = f'<mc:Choice Requires="wps"><w:drawing>{box}</w:drawing></mc:Choice><mc:Fallback>{box}</mc:Fallback>'
    runs = f"<w:r><w:t>Tides</w:t></w:r><w:r><mc:AlternateContent {mc}>{both}</mc:AlternateContent></w:r>"
    text, _, _ = read(word_of(f"<w:p>{runs}<w:r><w:t>ebb</w:t></w:r></w:p>"), "docx")
    assert text.split() == ["Tides", "Ports", "Brest", "ebb"]


def test_hyphens_and_lines_of_a_word_document_part_words() -> None:
    runs = "<w:r><w:t>ebb</w:t><w:noBreakHyphen/><w:t>tide</w:t><w:cr/><w:t>flow</w:t></w:r>"
    assert read(word_of(f"<w:p>{runs}</w:p>"), "docx")[0] == "ebb-tide\nflow"


def test_lines_of_code_in_a_word_document_are_one_block() -> None:
    document = docx.Document()
    document.styles.add_style("Source Code", WD_STYLE_TYPE.PARAGRAPH)
    for line in ("def f(x):", "", "    return x"):
        document.add_paragraph(line, style="Source Code")
    document.add_paragraph("The end.")
    raw = io.BytesIO()
    document.save(raw)
    assert read(raw.getvalue(), "docx")[0] == "```\ndef f(x):\n\n    return x\n```\n\nThe end."


def test_what_was_moved_in_a_word_document_stands_where_it_is_now() -> None:
    moved = "<w:r><w:t>Brest</w:t></w:r>"
    body = f"<w:p><w:moveFrom>{moved}</w:moveFrom></w:p>{p('Ports')}<w:p><w:moveTo>{moved}</w:moveTo></w:p>"
    assert read(word_of(body), "docx")[0] == "Ports\n\nBrest"


def test_a_slide_is_a_page_with_its_title_text_table_and_notes() -> None:
    text, _, pages = read(slides("ebb\nflow", "salt"), "pptx")
    first, second = on_pages(text, pages)
    assert first.startswith("## Slide 0\n\n- ebb\n- flow")
    assert "| Port | Height |\n| --- | --- |\n| Brest | 0 m |" in first
    assert "spoken 0" in first
    assert second.startswith("## Slide 1\n\n- salt")


def test_a_sheet_is_a_heading_and_a_table() -> None:
    rows: list[list[object]] = [
        ["Day", "Height", "Note"],
        [date(2020, 1, 2), 6.5, "a|b"],
        [None] * 3,
        ["late", 7, None],
    ]
    text, _, _ = read(sheet(Brest=rows, Empty=[], Other=[["x"], [1]]), "xlsx")
    assert text == (
        "# Brest\n\n| Day | Height | Note |\n| --- | --- | --- |\n| 2020-01-02 | 6.5 | a\\|b |\n| late | 7 |  |\n\n"
        "# Empty\n\n# Other\n\n| x |\n| --- |\n| 1 |"
    )


def test_columns_without_a_word_are_left_out_however_far_away_a_cell_is() -> None:
    far: list[object] = ["Height", *[None] * 5000, "Note"]
    text, _, _ = read(sheet(Brest=[far, [6.5], [None, None]]), "xlsx")
    assert text == "# Brest\n\n| Height | Note |\n| --- | --- |\n| 6.5 |  |"


def test_sheets_without_a_value_say_nothing_by_their_names_alone() -> None:
    assert "holds no text" in refusal(sheet(Sheet1=[], Sheet2=[[None, " "]]), "xlsx")


def test_lines_of_a_cell_are_told_without_what_some_sheets_end_them_with() -> None:
    assert read(sheet(Brest=[["ebb_x000D_\nflow"]]), "xlsx")[0] == "# Brest\n\n| ebb flow |\n| --- |"


def test_html_becomes_what_a_reader_sees() -> None:
    page = """<html><head><title>Sea</title><style>p {}</style></head><body><script>alert(1)</script>
      <nav>Home</nav><h1>Tides</h1><p>The <b>moon</b> <a href="/pull">pulls</a>.</p><ul><li>ebb</li><li>flow</li></ul>
      <table><tr><th>Port</th><th>Height</th></tr><tr><td>Brest</td><td>6|7 m</td></tr></table>
      <pre><code>x = 1\n  y = 2</code></pre></body></html>"""
    text, title, _ = read(page.encode(), "html")
    assert title == "Sea"
    assert text.startswith(
        "# Tides\n\nThe **moon** pulls.\n\n- ebb\n- flow\n\n| Port | Height |\n| --- | --- |\n| Brest | 6\\|7 m |"
    )
    assert "```\nx = 1\n  y = 2\n```" in text
    assert "alert" not in text
    assert "Home" not in text
    assert read(b"<p>Menu</p><main><p>Matter</p></main>", "html")[0] == "Matter"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Menu</p><article>One.</article><article>Two.</article>", "Menu\n\nOne.\n\nTwo."),
        ("<p>Menu</p><main><article>One.</article><article>Two.</article></main>", "One.\n\nTwo."),
        ("<p>Menu</p><article><p>All that it has to say.</p></article>", "All that it has to say."),
        ("<p>All that it has to say.</p><article><p>A card.</p></article>", "All that it has to say.\n\nA card."),
        ("<main></main><p>Filled in elsewhere.</p>", "Filled in elsewhere."),
        ("<main><p>One.</p></main><main><p>Two.</p></main>", "One.\n\nTwo."),
    ],
    ids=["articles", "articles in main", "an article", "an article beside text", "an empty main", "two mains"],
)
def test_of_a_page_in_html_a_part_is_read_only_if_it_is_clear_that_it_is_the_page(page: str, text: str) -> None:
    assert read(page.encode(), "html")[0] == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Ebb<p>Flow<h2>Ports</h2>Brest", "Ebb\n\nFlow\n\n## Ports\n\nBrest"),
        ("<ul><li>ebb<ul><li>slow<li>fast</ul><li>flow</ul>Both", "- ebb\n  - slow\n  - fast\n- flow\n\nBoth"),
        ("<dl><dt>ebb<dd>falls<dt>flow<dd>rises</dl>", "ebb\n:   falls\n\nflow\n:   rises"),
        ("<table><tr><th>Port<th>Height<tr><td>Brest<td>6 m</table>", TABLE),
        ("<table><thead><tr><th>Port<th>Height<tbody><tr><td>Brest<td><p>6 m</table>", TABLE),
        ("<table><caption>Tides<colgroup><col><col><tr><th>Port<th>Height<tr><td>Brest<td>6 m</table>",
         f"Tides\n\n{TABLE}"),
        ("<html><head><title>Sea</title><body><p>Ebb", "Ebb"),
        ("<p>Ebb<noscript><div>Switch it on</div></noscript> and flow", "Ebb and flow"),
    ],
    ids=["paragraphs", "items", "terms", "cells", "parts of tables", "captions", "heads", "what is not seen"],
)  # fmt: skip
def test_tags_that_html_lets_end_unsaid_end_where_it_says(page: str, text: str) -> None:
    assert read(page.encode(), "html")[0] == text


def test_a_page_of_a_thousand_paragraphs_without_ends_is_not_nested() -> None:
    assert read(b"<p>Ebb.\n" * 1000, "html")[0] == "\n\n".join(["Ebb."] * 1000)


def test_a_cell_of_a_page_that_goes_on_below_moves_no_other_to_another_column() -> None:
    rows = (
        "<tr><th>Port<th colspan=2>Height<th>Note<tr><td rowspan=2>Brest<td>low<td>1 m<td rowspan=9>a"
        "<tr><td>high<td>7 m<tr><td>Granville<td>low<td>2 m<tr><td rowspan=zero>Dover<td>low<td>3 m"
    )
    assert read(f"<table>{rows}</table>".encode(), "html")[0].splitlines()[2:] == [
        "| Brest | low | 1 m | a |", "|  | high | 7 m |", "| Granville | low | 2 m |", "| Dover | low | 3 m |",
    ]  # fmt: skip


@pytest.mark.parametrize("inside", ["", "<tbody>"])
def test_a_table_with_a_caption_has_a_header(inside: str) -> None:
    rows = "<tr><th>Port</th><th>Height</th></tr><tr><td>Brest</td><td>6 m</td></tr>"
    page = f"<table><caption>Tides</caption>{inside}{rows}</table>"
    assert read(page.encode(), "html")[0] == f"Tides\n\n{TABLE}"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr><td><h1>Tides</h1><p>Ebb.<p>Flow.<td>Menu</table>", "# Tides\n\nEbb.\n\nFlow.\n\nMenu"),
        ("<table><tr><td><pre>1\n2</pre><td><pre>x\ny</pre></table>", "```\n1\n2\n```\n\n```\nx\ny\n```"),
        ("<table role=presentation><tr><td><p>Ebb.<p>Flow.</table>", "Ebb.\n\nFlow."),
        ("<table><tr><td>Ebb<td><table><tr><th>Port<th>Height<tr><td>Brest<td>6 m</table></table>", f"Ebb\n\n{TABLE}"),
        ("<table><tr><th>Port<th>Note<tr><td>Brest<td><ul><li>ebb<li>flow</ul></table>",
         "| Port | Note |\n| --- | --- |\n| Brest | - ebb - flow |"),
    ],
    ids=["headings", "code", "as it says", "a table in it", "values"],
)  # fmt: skip
def test_what_a_table_only_puts_in_its_place_is_read_as_if_there_were_none(page: str, text: str) -> None:
    assert read(page.encode(), "html")[0] == text


def test_the_parts_of_a_table_are_one_table() -> None:
    rows = "<tbody><tr><td>Brest<td>6 m<tbody><tr><td>Dover<td>3 m<tfoot><tr><td>both<td>9 m"
    values = "| Brest | 6 m |\n| Dover | 3 m |\n| both | 9 m |"
    assert read(f"<table>{rows}</table>".encode(), "html")[0] == f"|  |  |\n| --- | --- |\n{values}"
    assert read(f"<table><form>{rows}</form></table>".encode(), "html")[0] == f"|  |  |\n| --- | --- |\n{values}"
    headed = f"<table><tr></tr><thead><tr><td>Port<td>Height{rows}</table>"
    assert read(headed.encode(), "html")[0] == f"| Port | Height |\n| --- | --- |\n{values}"


@pytest.mark.parametrize(
    "name", ["summary", "header", "main", "footer", "aside", "address", "legend", "form", "figure"]
)
def test_blocks_of_a_page_part_words(name: str) -> None:
    assert read(f"<div>Ebb<{name}>Flow</{name}>Both</div>".encode(), "html")[0] in ("Ebb\n\nFlow\n\nBoth", "Flow")


def test_declarations_and_conditions_in_a_page_are_not_seen() -> None:
    page = '<?xml version="1.0"?><!DOCTYPE html><html><p>Ebb<![if !supportLists]> and flow<![endif]></p></html>'
    assert read(page.encode(), "html")[0] == "Ebb and flow"


@pytest.mark.parametrize(
    ("said", "encoding"),
    [("", "utf-8"), ("utf-8", "utf-8"), ("", "utf-8-sig"), ("", "utf-16"), ("utf-16", "utf-8"), ("iso-8859-2",) * 2,
     ("iso-8859-1", "utf-8-sig"), ("base64", "utf-8"), ("of my own", "utf-8")],
)  # fmt: skip
def test_a_page_is_in_what_it_says_and_otherwise_in_utf_8_if_it_can_be(said: str, encoding: str) -> None:
    page = f'{said and f"""<meta charset="{said}">"""}<p>the moon pulls łódź</p>'
    assert read(page.encode(encoding), "html")[0] == "the moon pulls łódź"


def test_a_page_that_says_latin_1_means_that_of_windows() -> None:
    assert read(b'<meta charset="iso-8859-1"><p>It\x92s 5 \x80</p>', "html")[0] == "It\u2019s 5 €"


@pytest.mark.parametrize("said", ["", '<meta charset="utf-8">'])
def test_a_byte_that_is_no_utf_8_spoils_nothing_else_of_a_page(said: str) -> None:
    assert read(f"{said}<p>Die Größe der Häfen</p>".encode() + b"\xff", "html")[0] == "Die Größe der Häfen\n\n\ufffd"


def test_the_title_of_a_picture_is_not_that_of_the_page() -> None:
    picture = "<svg><title>Menu</title></svg>"
    assert read(f"{picture}<p>Ebb.</p>".encode(), "html") == ("Ebb.", "", [])
    assert read(f"<title>Sea</title>{picture}<p>Ebb.</p>".encode(), "html") == ("Ebb.", "Sea", [])


@pytest.mark.parametrize(
    ("lines", "cells"),
    [
        ('1,"plain, quoted",x\n2,"the ""big"" one, here",x', ["2", 'the "big" one, here', "x"]),
        ("1,'n',x\n2,'m',\"a, b\"", ["2", "'m'", "a, b"]),
        ('1, "a, b", c\n2, "d, e", f', ["2", "d, e", "f"]),
    ],
    ids=["quotes in quotes", "apostrophes", "blanks"],
)
def test_quotes_in_a_csv_mean_what_they_mean_everywhere(lines: str, cells: list[str]) -> None:
    text, _, _ = read(f"id,text,more\n{lines}\n".encode(), "csv")
    assert text.splitlines()[-1] == f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_values_in_a_csv_become_a_table_whatever_parts_them(delimiter: str) -> None:
    raw = "".join(delimiter.join(row) + "\r\n" for row in [["Port", "Height"], ["Brest", "6 m"], ["St. Malo", "12 m"]])
    text, _, _ = read(raw.encode(), "csv")
    assert text == "| Port | Height |\n| --- | --- |\n| Brest | 6 m |\n| St. Malo | 12 m |"


def test_a_line_of_a_csv_that_says_what_parts_the_values_is_none_of_them() -> None:
    text, _, _ = read(b"sep=;\r\nPort;Height, Note\r\nBrest;6,5\r\n", "csv")
    assert text == "| Port | Height, Note |\n| --- | --- |\n| Brest | 6,5 |"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_text_is_read_as_it_was_written(encoding: str) -> None:
    assert read("Café für alle".encode(encoding), "text")[0] == "Café für alle"


def test_a_byte_that_is_no_utf_8_spoils_nothing_else_of_a_text() -> None:
    raw = "Käse, Größe, Höhe".encode()
    assert read(raw + b"\xc3", "text")[0] == "Käse, Größe, Höhe\ufffd"
    assert read(raw[:2] + raw[3:], "csv")[0].startswith("| K\ufffdse | Größe |")


def test_markdown_stays_as_it_is_and_gives_its_title() -> None:
    raw = b"```\n# a comment\n```\n\n## Real ##\n\nText.\n"
    assert read(raw, "markdown") == (raw.decode(), "Real", [])


def test_words_on_two_lines_of_a_slide_are_two_words() -> None:
    text, _, _ = read(slides("ebb\vand flow\nspring tide"), "pptx")
    assert "- ebb and flow\n- spring tide" in text


def test_what_ends_a_line_or_a_page_parts_words() -> None:
    assert read(b"ebb\x0bflow\x0cspring", "text")[0] == "ebb\nflow\nspring"


@pytest.mark.parametrize(
    ("kind", "raw", "part"),
    [
        ("docx", word(), "word/document"),
        ("xlsx", sheet(Tides=[["ebb"]]), "xl/workbook"),
        ("pptx", slides("ebb"), "ppt/presentation"),
    ],
    ids=["docx", "xlsx", "pptx"],
)
def test_the_main_part_of_an_office_file_may_have_a_number(kind: Kind, raw: bytes, part: str) -> None:
    assert read(renumbered(raw, part), kind) == read(raw, kind)


@pytest.mark.parametrize(("kind", "raw"), [("text", b"PKW sind Autos."), ("csv", b"PK,name\n1,Brest\n")])
def test_a_text_that_begins_with_the_letters_of_a_zip_is_a_text(kind: Kind, raw: bytes) -> None:
    assert "PK" in read(raw, kind)[0]


def test_a_page_that_begins_with_many_blank_lines_is_not_empty() -> None:
    assert read(b" \n" * 4096 + b"<p>The moon pulls.</p>", "html")[0] == "The moon pulls."
    assert "holds no text" in refusal(b" \n" * 4096, "text")


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("# C#", "C#"),
        ("# C# #", "C#"),
        ("# C #\t", "C"),
        ("#\tTabs\t##", "Tabs"),
        ("## #5 and #6", "#5 and #6"),
        ("###### Deep", "Deep"),
        ("####### Deeper", ""),
        ("#hashtag", ""),
        ("## ##", ""),
        ("#", ""),
    ],
)
def test_what_closes_a_heading_is_no_part_of_a_title_and_what_is_written_to_a_word_is(line: str, title: str) -> None:
    assert read(f"{line}\n\nText.".encode(), "markdown")[1] == title


def test_a_heading_and_a_paragraph_of_blanks_are_read_in_no_more_time_than_others() -> None:
    text = f"# x{' ' * 40_000}y\n"
    began = process_time()
    assert read(text.encode(), "markdown") == (text, text[2:-1], [])
    writer = Writer(MOST)
    writer.paragraph(f"before{chr(10) * 40_000}\u00a0# after")
    assert writer.done().text.endswith("\n\u00a0\\# after")
    assert process_time() - began < 1.0


BAD: dict[str, tuple[Callable[[], bytes], Kind, str]] = {
    "empty": (lambda: b"", "pdf", "is empty"),
    "blank": (lambda: b" \n ", "text", "is empty"),
    "cut in half": (lambda: pdf([Text(PROSE)])[:300], "pdf", "can't be read as pdf"),
    "garbage": (lambda: b"%PDF-1.4\n" + bytes(range(256)) * 20, "pdf", "can't be read as pdf"),
    "scanned": (lambda: pdf([]), "pdf", "holds no text"),
    "with a password": (encrypted_pdf, "pdf", "has a password"),
    "another kind": (word, "pdf", "is not a PDF, though its name says so: it looks like a zip archive"),
    "of another Office": (word, "xlsx", "is not a .xlsx file, though its name says so: it has no xl/workbook.xml"),
    "of an older Office": (lambda: b"\xd0\xcf\x11\xe0" + bytes(600), "docx", "is of an older Office"),
    "half a zip": (lambda: word()[:2000], "docx", "is damaged"),
    "binary": (lambda: b"text and \0\1\2", "text", "is not text, though its name says so"),
    "binary CSV": (lambda: zlib.compress(b"a,b\n" * 99) + b"\0", "csv", "is not text"),
    "neither Latin": (lambda: b"\x81\x8d\x8f\x90\x9d", "text", "save it as UTF-8"),
    "too long": (lambda: b"word " * 60_000, "text", "at most 200000 are allowed"),
    "too many rows": (lambda: b"a,b\n" * 60_000, "csv", "holds more than 200000 characters"),
    "nested deeply": (lambda: b"<div>" * 30_000 + b"deep", "html", "is nested too deeply"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_can_not_be_read_says_why(what: str) -> None:
    made, kind, why = BAD[what]
    assert why in refusal(made(), kind)


@pytest.mark.parametrize("kind", ["docx", "xlsx"])
def test_laughing_entities_do_not_unfold(kind: Kind) -> None:
    with suppress(Unreadable):
        assert len(read(laughs(kind), kind)[0]) < 1000


def test_a_bomb_is_known_before_it_is_unpacked() -> None:
    with pytest.raises(Unreadable, match=r"would unpack to .* bytes; at most 1048576 are allowed"):
        convert(io.BytesIO(bomb()), "docx", MOST, 2**20)


def test_a_bomb_whose_directory_lies_is_found_out() -> None:
    assert "can't be read as docx" in refusal(lying_bomb(), "docx")


def test_a_name_tells_the_kind_and_others_are_refused() -> None:
    assert [kind_of(name) for name in ("a.PDF", "sub.dir/b.htm", "c.jsonl", "d.tsv")] == ["pdf", "html", "jsonl", "csv"]
    for name in ("a.exe", "pdf", ".md/file", ""):
        with pytest.raises(Unreadable, match="of no kind that can be read"):
            kind_of(name)
