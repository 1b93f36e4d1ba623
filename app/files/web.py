"""HTML to Markdown: what a reader sees."""

from __future__ import annotations

import codecs
from collections import Counter
from contextlib import suppress
from typing import IO, Any

from bs4 import BeautifulSoup, Tag
from bs4.dammit import EncodingDetector
from bs4.element import CData, PreformattedString
from markdownify import MarkdownConverter

from app.files.kinds import BYTE_ORDER_MARKS
from app.files.text import UTF8, mended
from app.files.types import Converted, Unreadable
from app.files.writer import clean

UNSEEN = ("script", "style", "noscript", "template", "svg", "nav", "button", "select", "dialog")
NO_TEXT = ("head", "title", "colgroup", "col")

WIDEST = 100
"""Columns that one cell may span."""

DEEPEST = 500
"""Open elements that are looked at; a page that has more of them can't be told."""

CELLS, LISTS, PARTS = {"td", "th"}, {"ul", "ol", "menu"}, {"thead", "tbody", "tfoot"}
ABOVE = {"caption", "colgroup"}
"""What stands in a table above its rows."""

LAYS_OUT = ("h1", "h2", "h3", "h4", "h5", "h6", "pre", "table")
"""What stands in cells of tables that put a page's parts in their places, and in no cell of Markdown."""

PLAIN = {
    **dict.fromkeys(
        ("address", "aside", "center", "details", "fieldset", "figure", "footer", "form", "header", "hgroup", "legend",
         "main", "search", "summary"),
        "div",
    ),
    **dict.fromkeys(("menu", "dir"), "ul"),
}  # fmt: skip
"""Blocks that the converter would take for words of a line, and what it knows that is like them."""

BLOCKS = (
    "address", "article", "aside", "blockquote", "body", "center", "details", "dialog", "dir", "div", "dl", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "main",
    "menu", "nav", "ol", "p", "pre", "search", "section", "table", "ul",
)  # fmt: skip

APART = frozenset({"table", "object", *UNSEEN})
"""What begins within these ends nothing around them."""

ENDED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    **dict.fromkeys(BLOCKS, (frozenset({"p", "head"}), APART | CELLS | {"caption"})),
    "li": (frozenset({"li"}), APART | CELLS | LISTS),
    **dict.fromkeys(("dt", "dd"), (frozenset({"dt", "dd"}), APART | CELLS | {"dl"})),
    **dict.fromkeys(CELLS, (frozenset(CELLS), APART | {"tr"})),
    "tr": (frozenset({"tr"} | CELLS | ABOVE), APART),
    **dict.fromkeys(PARTS, (frozenset({"tr"} | CELLS | ABOVE | PARTS), APART)),
}
"""By an element that begins: those that end there unless they did before, and those around which it does not look."""


def read_html(file: IO[bytes], most: int) -> Converted:
    page = Page(_decoded(file.read()), "html.parser")
    title = next((each.get_text() for each in page("title") if each.find_parent("svg") is None), "")
    for element in page((*UNSEEN, *NO_TEXT)):
        element.decompose()
    for caption in page("caption"):
        if (table := caption.find_parent("table")) is not None:
            table.insert_before(caption.extract())  # within it no row would be the first one, and so none the header
    for said in [each for each in page.descendants if isinstance(each, PreformattedString)]:
        if not isinstance(said, CData):
            said.extract()  # declarations, conditions of Word's, instructions: a reader sees none of them
    _join_rows(page)
    for table in page("table"):
        _lay_flat(table) if _lays_out(table) else _keep_columns(table, page)
    part = _main(page)
    for element in part((*PLAIN,)):
        element.name = PLAIN[element.name]
    try:
        text = Shown(heading_style="ATX", bullets="-").convert_soup(part)
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    if len(text) > most:
        raise Unreadable(f"holds {len(text)} characters; at most {most} are allowed: split it")
    return Converted(clean(text).strip(), " ".join(clean(title).split()))


def _decoded(raw: bytes) -> str | bytes:
    """As browsers do it, as far as a page says what it is, or is UTF-8; of the rest the parser guesses what it is."""
    if raw.startswith(BYTE_ORDER_MARKS):
        return raw
    marked = raw.startswith(codecs.BOM_UTF8)
    encoding = UTF8 if marked else _meant(EncodingDetector.find_declared_encoding(raw, is_html=True))
    with suppress(UnicodeError):
        return raw.decode(encoding)
    return (mended(raw) if encoding == UTF8 else None) or raw


def _meant(declared: str | None) -> str:
    """What browsers take for what a page says."""
    try:
        name = codecs.lookup(declared or UTF8).name
        b"a".decode(name)  # not all that codecs do is text
    except (LookupError, ValueError):
        return UTF8
    return UTF8 if name.startswith("utf") else {"iso8859-1": "cp1252"}.get(name, name)


class Page(BeautifulSoup):
    """Paragraphs, items and cells may end without a tag that says so: nested in each other they would say other things,
    and soon be too deep."""

    def handle_starttag(self, name: str, *given: Any, **more: Any) -> Tag | None:
        self.endData()
        for _ in range(self._ended_by(name)):
            self.popTag()
        return super().handle_starttag(name, *given, **more)

    def _ended_by(self, name: str) -> int:
        """How many of the innermost elements end where this one begins."""
        ended, apart = ENDED.get(name, (frozenset(), frozenset()))
        amount = 0
        if any(self.open_tag_counter[each] for each in ended):
            for depth, each in enumerate(reversed(self.tagStack[-DEEPEST:]), 1):
                if each.name in apart:
                    break
                amount = depth if each.name in ended else amount
        return amount


class Shown(MarkdownConverter):
    """What stands on the page: links without their addresses, and cells whose bars part no columns."""

    def convert_a(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return text

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return str(el.get("alt") or "")

    def convert_td(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        told = " ".join(text.split()).replace("|", "\\|")
        return f" {told} |" + "  |" * (min(_span(el, "colspan"), WIDEST) - 1)

    convert_th = convert_td


def _join_rows(page: BeautifulSoup) -> None:
    """All rows of a table stand in it: one whose first part has no header would begin anew with each part."""
    for part in page((*PARTS,)):
        for cell in part("td") if part.name == "thead" else ():
            cell.name = "th"
        part.unwrap()
    for form in page("form"):
        if form.parent is not None and form.parent.name == "table":
            form.unwrap()
    for row in page("tr"):
        if row.find((*CELLS,)) is None:
            row.decompose()


def _lays_out(table: Tag) -> bool:
    """Whether it has blocks in cells rather than values in columns."""
    if table.get("role") in ("presentation", "none"):
        return True
    return table.find(LAYS_OUT) is not None and not _own(table, "th") and bool(_own(table, *LAYS_OUT))


def _lay_flat(table: Tag) -> None:
    """Its cells become blocks, one below the other."""
    for each in [*_own(table, "tr", *CELLS), table]:
        each.name = "div"


def _own(table: Tag, *names: str) -> list[Tag]:
    return [each for each in table(names) if each.find_parent("table") is table]


def _keep_columns(table: Tag, page: BeautifulSoup) -> None:
    """Where a cell goes on below, an empty one takes its place: those behind it would stand in other columns."""
    below: Counter[int] = Counter()
    for row in table("tr"):
        column, cells = 0, row(CELLS, recursive=False) if row.find_parent("table") is table else []
        for cell in cells:
            while below[column] > 0:
                cell.insert_before(page.new_tag("td"))
                below[column] -= 1
                column += 1
            for _ in range(min(_span(cell, "colspan"), WIDEST)):
                below[column] = _span(cell, "rowspan") - 1
                column += 1
        below.subtract(each for each in list(below) if cells and each >= column)


def _span(cell: Tag, name: str) -> int:
    told = str(cell.get(name, ""))
    return max(int(told[:6]), 1) if told.isdecimal() else 1


def _main(page: BeautifulSoup) -> BeautifulSoup | Tag:
    """The part that the page itself calls its own, if that is clear: the rest is on every page of the site."""
    mains, articles = page("main"), page("article")
    if len(mains) == 1 and _length(mains[0]):
        return mains[0]
    if len(articles) == 1 and 2 * _length(articles[0]) > _length(page):
        return articles[0]
    return page


def _length(part: Tag) -> int:
    return len(part.get_text("", strip=True))
