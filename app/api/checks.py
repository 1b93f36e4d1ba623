"""Limits that are settings, and texts that could not be kept: checked before any work, each fault with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from app.api.problems import faults_of
from app.api.schemas import ChoiceBody, DocumentBody
from app.api.search_schemas import SearchBody
from app.errors import Fault, Invalid, InvalidDocuments
from app.service.ingest import Change, Chosen, content_id
from app.settings import Settings
from app.stages.filter import parse
from app.stores.metadata import CONTROL, check_metadata, instant, merged, text_fault
from app.types import Document, Metadata

UNSEEN = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
"""Control characters that no text needs: not tab, line feed, form feed and carriage return."""


def check_search(body: SearchBody, settings: Settings) -> None:
    faults = list(_text_faults("/query", body.query, settings.max_query_chars))
    for name, most in (("top_k", settings.max_top_k), ("candidates", settings.max_candidates)):
        if name in body.model_fields_set and isinstance(asked := getattr(body, name), int):
            faults += _above(f"/{name}", asked, most)
    if body.newer_than is not None and instant(body.newer_than) is None:
        faults.append(Fault("/newer_than", 'is not an ISO 8601 date such as "2025-01-31" or "2025-01-31T09:00:00Z"'))
    if faults:
        raise Invalid("The search can't be carried out as it is.", faults)


def chosen(body: ChoiceBody, settings: Settings) -> Chosen:
    """The documents that are to be deleted or changed."""
    if (body.ids is None) == (body.filter is None):
        raise Invalid("Say which documents.", [Fault("", "send either ids or filter, and not both")])
    if body.filter == {}:
        raise Invalid("An empty filter matches everything.", [Fault("/filter", "is empty: say what to look for")])
    if body.filter is not None:
        return parse(body.filter, settings.max_filter_conditions)
    ids, most = body.ids or [], settings.max_documents
    if len(ids) > most:
        raise Invalid("That is too much at once.", [Fault("/ids", f"holds {len(ids)}; at most {most} at once")])
    return ids


def change(given: Metadata, settings: Settings) -> Change:
    """What becomes of a document's metadata with these changes."""
    faults = list(_said_faults("/metadata", given, settings))
    if not given:
        faults.append(Fault("/metadata", "is empty: say what to change"))
    if faults:
        raise Invalid("Nothing was changed.", faults)

    def changed(document: str, metadata: Metadata) -> Metadata:
        made = merged(metadata, given)
        most = max(settings.max_metadata_bytes, len(orjson.dumps(metadata)))  # what is too much may become less
        if faults := list(_above("/metadata", len(orjson.dumps(made)), most, " bytes")):
            raise Invalid(f"Nothing was changed: that of '{document}' would be too much.", faults)
        return made

    return changed


def documents(given: Sequence[Any], settings: Settings) -> list[Document]:
    """The documents of one request, all of them or none; every bad one is named."""
    if len(given) > settings.max_documents:
        detail = (
            f"holds {len(given)} documents; at most {settings.max_documents} at once: send several requests, or NDJSON"
        )
        raise InvalidDocuments("That is too much at once.", [Fault("/documents", detail)])
    read = [document(each, f"/documents/{i}", settings) for i, each in enumerate(given)]
    faults = [fault for each in read if isinstance(each, list) for fault in each]
    faults += _repeated(given)
    if faults:
        raise InvalidDocuments(f"Nothing was taken in: {len(faults)} fault(s) in {len(given)} documents.", faults)
    return [each for each in read if isinstance(each, Document)]


def document(given: Any, pointer: str, settings: Settings, shared: Metadata | None = None) -> Document | list[Fault]:
    """A document that can be kept, with metadata that all of an upload share beside its own, or what is wrong with it.
    One without an id gets its content's."""
    try:
        body = DocumentBody.model_validate(given)
    except ValidationError as error:
        return faults_of(error.errors(include_url=False, include_input=False), pointer)
    own, body.metadata = body.metadata, (shared or {}) | body.metadata
    faults = list(_document_faults(body, pointer, settings))
    if faults:
        return faults
    made_id = body.id if body.id is not None else content_id(body.title, body.text, own, body.format)
    return Document(made_id, body.text, body.title, body.metadata, body.format)


def check_upload(paths: Sequence[str], metadata: Any, settings: Settings) -> None:
    """Names that become ids, and what is said of all files at once."""
    faults = [fault for i, path in enumerate(paths) for fault in _id_faults(f"/files/{i}", path, settings)]
    faults += [Fault(f"/files/{i}", "has the same name as another file: names become ids and must differ")
               for i, path in enumerate(paths) if path in paths[:i]]  # fmt: skip
    if not paths:
        faults.append(Fault("/files", "is missing: send at least one file in the form field files"))
    if not isinstance(metadata, dict):
        faults.append(Fault("/metadata", "is not a JSON object"))
    else:
        faults += _said_faults("/metadata", metadata, settings)
    if faults:
        raise Invalid("The upload can't be taken as it is.", faults)


def feedback_faults(query: str, document: str | None, pointer: str, settings: Settings) -> Iterator[Fault]:
    yield from _text_faults(f"{pointer}/query", query, settings.max_query_chars)
    if document is not None:
        yield from _id_faults(f"{pointer}/document", document, settings)


def _document_faults(body: DocumentBody, pointer: str, settings: Settings) -> Iterator[Fault]:
    yield from _text_faults(f"{pointer}/text", body.text, settings.max_text_chars)
    if body.title:
        yield from _text_faults(f"{pointer}/title", body.title, settings.max_title_chars)
    if body.id is not None:
        yield from _id_faults(f"{pointer}/id", body.id, settings)
    yield from _metadata_faults(f"{pointer}/metadata", body.metadata, settings)


def _said_faults(pointer: str, metadata: Metadata, settings: Settings) -> Iterator[Fault]:
    """Of metadata that is said of files, or of documents that may have been made of some."""
    if "file" in metadata:
        yield Fault(f"{pointer}/file", "is where the service tells of the file: use another name")
    else:
        yield from _metadata_faults(pointer, metadata, settings)


def _metadata_faults(pointer: str, metadata: dict[str, Any], settings: Settings) -> Iterator[Fault]:
    wrong = check_metadata(metadata, pointer, settings.max_metadata_depth)
    yield from wrong
    if not wrong:
        yield from _above(pointer, len(orjson.dumps(metadata)), settings.max_metadata_bytes, " bytes")


def _id_faults(pointer: str, given: str, settings: Settings) -> Iterator[Fault]:
    if not given or given != given.strip():
        yield Fault(pointer, "is empty or has spaces around it: send a name, or leave the field out")
    if given in (".", ".."):
        yield Fault(pointer, "is a step in a path, which no client would ask for under /documents: send another name")
    fault = text_fault(given, CONTROL)
    if fault:
        yield Fault(pointer, fault)
    yield from _above(pointer, len(given), settings.max_id_chars, " characters")


def _text_faults(pointer: str, text: str, most: int) -> Iterator[Fault]:
    """Length first: a text that is far too long is not worth reading."""
    if len(text) > most:
        yield from _above(pointer, len(text), most, " characters")
        return
    if not text.strip():
        yield Fault(pointer, "is empty: send some text")
    fault = text_fault(text, UNSEEN)
    if fault:
        yield Fault(pointer, fault)


def _above(pointer: str, value: int, most: int, unit: str = "") -> Iterator[Fault]:
    if value > most:
        yield Fault(pointer, f"is {value}{unit}; at most {most} are allowed")


def _repeated(given: Sequence[Any]) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for i, each in enumerate(given):
        named = each.get("id") if isinstance(each, dict) else None
        if isinstance(named, str) and seen.setdefault(named, i) != i:
            yield Fault(f"/documents/{i}/id", f"is the same as that of documents/{seen[named]}: ids must differ")
