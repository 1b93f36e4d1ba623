"""Which kind a file is: by its name, as long as its first bytes do not say otherwise."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile

from app.files.types import Kind, Unreadable

SUFFIXES: dict[str, Kind] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
MAIN_PART: dict[Kind, str] = {"docx": "word/document", "pptx": "ppt/presentation", "xlsx": "xl/workbook"}
"""Without its end: Office on the web writes word/document2.xml."""

HEAD = 4096
PDF, OLE = b"%PDF-", b"\xd0\xcf\x11\xe0"
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""An archive, one without any part, one of several volumes: a text may begin with PK, too."""
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def kind_of(name: str) -> Kind:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise Unreadable(f"is of no kind that can be read: these are {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def check(kind: Kind, file: IO[bytes], most_unpacked: int) -> None:
    """Refuse a file that is not what its name says, before any converter looks at it."""
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    if not head.strip() and len(head) < HEAD:  # what is longer may say something further down
        raise Unreadable("is empty")
    if kind in MAIN_PART:
        _check_office(kind, file, head, most_unpacked)
    elif kind == "pdf":
        if PDF not in head[:1024]:
            raise Unreadable(f"is not a PDF, though its name says so: {_looks_like(head)}")
    elif head.startswith((PDF, OLE, *ZIP)) or (b"\0" in head and not head.startswith(BYTE_ORDER_MARKS)):
        raise Unreadable(f"is not text, though its name says so: {_looks_like(head)}")


def _check_office(kind: Kind, file: IO[bytes], head: bytes, most_unpacked: int) -> None:
    if head.startswith(OLE):
        raise Unreadable(f"has a password or is of an older Office: save it as .{kind} without a password")
    if not head.startswith(ZIP):
        raise Unreadable(f"is not a .{kind} file, though its name says so: {_looks_like(head)}")
    try:
        with ZipFile(file) as archive:
            parts = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError, OverflowError) as error:  # zipfile at a damaged directory
        raise Unreadable(f"is damaged: {error}") from error
    finally:
        file.seek(0)
    if not any(part.filename.startswith(MAIN_PART[kind]) and part.filename.endswith(".xml") for part in parts):
        raise Unreadable(f"is not a .{kind} file, though its name says so: it has no {MAIN_PART[kind]}.xml")
    if (unpacked := sum(part.file_size for part in parts)) > most_unpacked:
        raise Unreadable(f"would unpack to {unpacked} bytes; at most {most_unpacked} are allowed")


def _looks_like(head: bytes) -> str:
    known = {
        (PDF,): "it looks like a PDF",
        ZIP: "it looks like a zip archive",
        (OLE,): "it looks like an older Office file",
    }
    return next((told for start, told in known.items() if head.startswith(start)), "it begins with other bytes")
