"""What reads each kind, and which version of it: a file that another version read is read again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from app.errors import NotInstalled
from app.files.types import Kind

EXTRA = "pip install -c constraints.txt -e '.[files]'"


@dataclass(frozen=True, slots=True)
class Reader:
    function: str
    edition: int
    """Counts up when the same file would become another text."""
    package: str | None = None
    """What it is made of beside the standard library."""
    decodes: bool = False
    """It does nothing else, so it needs no process of its own."""


READERS: dict[Kind, Reader] = {
    "pdf": Reader("app.files.pdf:read_pdf", 3, "pdfplumber"),
    "docx": Reader("app.files.word:read_docx", 5, "python-docx"),
    "pptx": Reader("app.files.slides:read_pptx", 3, "python-pptx"),
    "xlsx": Reader("app.files.sheets:read_xlsx", 3, "openpyxl"),
    "html": Reader("app.files.web:read_html", 4, "markdownify"),
    "csv": Reader("app.files.text:read_csv", 4),
    "markdown": Reader("app.files.text:read_markdown", 3, decodes=True),
    "text": Reader("app.files.text:read_text", 2, decodes=True),
}


@lru_cache
def converter(kind: Kind) -> str:
    """Name and version of what reads this kind; the sentence of one that is missing goes on from a file's name."""
    reader = READERS[kind]
    try:
        made_of = f" {reader.package} {version(reader.package)}" if reader.package else ""
    except PackageNotFoundError:
        raise NotInstalled(f"can't be read without {reader.package}: {EXTRA}") from None
    return f"{kind} {reader.edition}{made_of}"
