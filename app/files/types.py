"""The nouns of reading files: a kind, what becomes of a file, and why nothing could."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["pdf", "docx", "pptx", "xlsx", "html", "markdown", "text", "csv", "jsonl"]

PATH = "Winnow-Path"
"""The header of a form's part that says a file's name, percent-encoded, where the form itself can't say it as it is."""


class Unreadable(Exception):
    """A file that can't be read; the message goes on from the file's name and says what to change."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        """Whether the same file may be read at another time, since it was not the file's fault."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A file as text, in Markdown unless it was plain text."""

    text: str
    title: str = ""
    pages: tuple[int, ...] = ()
    """Where each page begins in the text."""
