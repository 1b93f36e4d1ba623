"""HTML to Markdown: what a reader sees."""

from __future__ import annotations

from typing import IO

from bs4 import BeautifulSoup, Tag
from markdownify import MarkdownConverter

from app.files.types import Converted, Unreadable
from app.files.writer import clean

UNSEEN = ("script", "style", "noscript", "template", "svg", "head", "nav", "button", "select", "dialog")

WIDEST = 100
"""Columns that one cell may span."""


def read_html(file: IO[bytes], most: int) -> Converted:
    page = BeautifulSoup(file.read(), "html.parser")
    title = page.title.get_text() if page.title is not None else ""
    for element in page(UNSEEN):
        element.decompose()
    try:
        text = Shown(heading_style="ATX", bullets="-").convert_soup(_main(page))
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    if len(text) > most:
        raise Unreadable(f"holds {len(text)} characters; at most {most} are allowed: split it")
    return Converted(clean(text).strip(), " ".join(clean(title).split()))


class Shown(MarkdownConverter):
    """What stands on the page: links without their addresses, and cells whose bars part no columns."""

    def convert_a(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return text

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return str(el.get("alt") or "")

    def convert_td(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        told = " ".join(text.split()).replace("|", "\\|")
        wide = str(el.get("colspan", ""))
        return f" {told} |" + "  |" * (min(int(wide), WIDEST) - 1 if wide.isdecimal() else 0)

    convert_th = convert_td


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
