"""Highlight: the sentences of a text, of which the best one is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator

BOUNDARY = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")  # noqa: RUF001  # full-width on purpose
WORD = re.compile(r"\w")

Span = tuple[int, int]


def sentences(text: str) -> list[Span]:
    """Where each sentence or line begins and ends that has any word."""
    return [span for span in _parts(text) if WORD.search(text, *span)]


def _parts(text: str) -> Iterator[Span]:
    start = 0
    for boundary in BOUNDARY.finditer(text):
        yield _trimmed(text, start, boundary.start() + len(boundary[0].rstrip()))
        start = boundary.end()
    yield _trimmed(text, start, len(text))


def _trimmed(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
