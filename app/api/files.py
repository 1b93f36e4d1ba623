"""POST /ingest/files: files in a multipart form, each with a report of what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any, cast

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.datastructures import FormData
from starlette.datastructures import UploadFile

from app.api import checks
from app.api.contract import OF_COLLECTIONS, refusals
from app.api.deps import EngineDep, StrictRoute, in_time
from app.api.forms import read_form
from app.api.ndjson import Feed, Outcome
from app.api.schemas import FilesReply, KnownBody, KnownReply, RefusedReply
from app.engine import Engine
from app.errors import Fault, Invalid, NotInstalled, TimedOut, TooLarge, UnsupportedType
from app.files.kinds import kind_of
from app.files.readers import EXTRA, READERS, converter
from app.files.types import PATH, Kind, Unreadable
from app.service.collections import DEFAULT
from app.service.files import File, check_size
from app.service.ingest import Ticket
from app.service.shelf import Shelf
from app.stores.metadata import beneath
from app.types import Metadata

router = APIRouter(tags=["documents"], route_class=StrictRoute)

FORM = "multipart/form-data"
FIELDS = {
    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
    "collection": {"type": "string", "default": DEFAULT},
    "wait": {"type": "boolean", "default": True},
    "metadata": {"type": "object", "description": "What all of these documents get, as JSON."},
}
TYPES = "text/plain, text/markdown, text/html, text/csv, application/pdf"
SAID = {"schema": {"type": "string"}, "description": "The file's name, percent-encoded, in place of the form's own."}
FORM_OF = {
    "schema": {"type": "object", "properties": FIELDS, "required": ["files"], "additionalProperties": False},
    "encoding": {
        "files": {"contentType": TYPES, "headers": {PATH: SAID}},
        "metadata": {"contentType": "application/json"},
    },
}
BODY = {"requestBody": {"required": True, "content": {FORM: FORM_OF}}}

NAMED = 20
"""Bad lines of a JSONL file that are named."""

PIECE = 65_536

RANKS = ("unchanged", "updated", "replaced", "created")


@dataclass(frozen=True, slots=True)
class Sent:
    """What an upload says."""

    collection: str
    """As it was asked for: what a standby takes the place of meanwhile is called otherwise."""
    shelf: Shelf
    files: list[UploadFile]
    metadata: Metadata
    wait: bool


@dataclass(slots=True)
class Report:
    """An upload under way."""

    ticket: Ticket | None = None
    through: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By the place of a JSONL file: its documents came behind one version, up to another."""


@dataclass(slots=True)
class Tally:
    """What became of a file's lines: there may be millions."""

    outcomes: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    bad: list[str] = field(default_factory=list)
    """The first of those that were refused, each with the reason."""

    def take(self, told: Outcome) -> None:
        if "status" in told:
            self.outcomes[told["status"]] += 1
            self.chunks += told["chunks"]
        elif len(self.bad) < NAMED:
            self.bad.append(f"line {told['line']}: {_reason(told)}")


@router.post(
    "/ingest/files",
    response_model=FilesReply,
    responses={
        202: {"model": FilesReply, "description": "Acknowledged; poll the job."},
        **refusals(*OF_COLLECTIONS, UnsupportedType, NotInstalled),
    },
    openapi_extra=BODY,
    summary="Take files in: PDF, DOCX, PPTX, XLSX, HTML, Markdown, text, CSV, JSONL",
)
async def ingest_files(request: Request, engine: EngineDep) -> Response:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise UnsupportedType(f"Files come as {FORM}.")
    with engine.files.admit(), ExitStack() as stack:
        sent = _sent(await read_form(request, engine.settings, stack), engine)
        report = Report()
        await in_time(request, engine.files.patience(len(sent.files)), _take_all(engine, sent, report))
        searchable = sent.wait and await _settled(request, engine, sent.shelf, report)
    job = report.ticket.id if report.ticket else None
    told = {"job": job, "collection": sent.collection, "searchable": searchable, "files": report.files}
    return Response(orjson.dumps(told), 200 if searchable else 202, media_type="application/json")


@router.post(
    "/ingest/files/known",
    response_model=KnownReply,
    responses=refusals(*OF_COLLECTIONS),
    summary="Which files need not be sent again",
)
async def known(body: KnownBody, engine: EngineDep) -> KnownReply:
    if len(body.files) > engine.settings.max_documents:
        raise TooLarge(f"Ask about {engine.settings.max_documents} files at once, at most.")
    hashes = {}
    for each in body.files:
        try:
            kind = kind_of(each.path)
        except Unreadable as error:
            raise Invalid("A file can't be read.", [Fault("/files", f"'{each.path}' {error}")]) from error
        if kind in READERS and not _lacking(each.path):
            hashes[each.path] = (kind, each.sha256)
    shelf = engine.collections.shelf(body.collection)
    have = await engine.files.known(shelf, hashes)
    failed = await engine.files.refused(shelf, {path: each for path, each in hashes.items() if path not in have})
    return KnownReply(known=have, refused=[RefusedReply(path=path, reason=why) for path, why in failed.items()])


def _sent(form: FormData, engine: Engine) -> Sent:
    """What the form says, once nothing is wrong with it."""
    if faults := list(_form_faults(form)):
        raise Invalid("The form can't be taken as it is.", faults)
    files = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
    fields = {name: value for name, value in form.multi_items() if name != "files"}
    metadata = _parsed("metadata", fields.get("metadata", "{}"))
    wait = _parsed("wait", fields.get("wait", "true"))
    if not isinstance(wait, bool):
        raise Invalid("The upload can't be taken as it is.", [Fault("/wait", "is neither true nor false")])
    checks.check_upload([each.filename or "" for each in files], metadata, engine.settings)
    _check_installed([each.filename or "" for each in files])
    collection = str(fields.get("collection", DEFAULT))
    return Sent(collection, engine.collections.taking(collection), files, metadata, wait)


def _form_faults(form: FormData) -> Iterator[Fault]:
    """Nothing is passed over: neither a field that is not known, nor one of two with the same name."""
    seen: set[str] = set()
    for name, value in form.multi_items():
        if name not in FIELDS:
            yield Fault(beneath("", name), f"is not known: there are {', '.join(FIELDS)}")
        elif isinstance(value, UploadFile) != (name == "files"):
            yield Fault(
                f"/{name}", "has no file's name" if name == "files" else "is a file, and should be a plain field"
            )
        elif name in seen:
            yield Fault(f"/{name}", "is there twice")
        seen |= {name} - {"files"}


def _parsed(name: str, value: Any) -> Any:
    try:
        return orjson.loads(str(value))
    except orjson.JSONDecodeError as error:
        raise Invalid("The upload can't be taken as it is.", [Fault(f"/{name}", f"is not JSON: {error}")]) from error


def _check_installed(paths: Sequence[str]) -> None:
    """Before any work: where what is missing is missing for every file, there is nothing to report of each."""
    lacking = [kind for path in paths if (kind := _lacking(path))]
    if lacking and len(lacking) == len(paths):
        raise NotInstalled(
            f"Files of these kinds can't be read here: {', '.join(sorted(set(lacking)))}. What reads them: {EXTRA}"
        )


def _lacking(path: str) -> Kind | None:
    """The kind of a file if nothing is installed that reads it."""
    try:
        kind = kind_of(path)
        if kind in READERS:
            converter(kind)
    except Unreadable:
        return None
    except NotInstalled:
        return kind
    return None


async def _take_all(engine: Engine, sent: Sent, report: Report) -> None:
    for upload in sent.files:
        path, label = upload.filename or "", "other"
        try:
            file = File(path, label := kind_of(path), cast(IO[bytes], upload.file))
            take = _take_lines if file.kind == "jsonl" else _take_file
            told = await take(engine, sent, file, report)
        except (Unreadable, NotInstalled) as error:
            told = {"status": "failed", "reason": str(error)}
        engine.metrics.files.labels(label, told["status"]).inc()
        report.files.append({"path": path} | told)


async def _take_file(engine: Engine, sent: Sent, file: File, report: Report) -> dict[str, Any]:
    taken = await engine.files.take(sent.shelf, file, sent.metadata, report.ticket)
    report.ticket, report.through = taken.ticket, max(report.through, taken.put.version)
    put = taken.put
    return {"id": put.id, "status": put.outcome, "chunks": put.chunks, "pages": taken.pages or None}


async def _take_lines(engine: Engine, sent: Sent, file: File, report: Report) -> dict[str, Any]:
    """A document a line, as NDJSON to /ingest; the file fares as the best of them."""
    check_size(file, engine.settings)
    tally = Tally()
    feed = Feed(engine, sent.shelf, tally.take, report.ticket, metadata=sent.metadata)
    await feed.take_all(_pieces(file.content))
    report.lines[len(report.files)] = report.through, feed.through
    report.ticket, report.through = feed.ticket, max(report.through, feed.through)
    reason = "; ".join(tally.bad)
    if not tally.outcomes:
        raise Unreadable(reason or "is empty")
    told = {
        "status": max(tally.outcomes, key=RANKS.index),
        "chunks": tally.chunks,
        "documents": tally.outcomes,
        "refused": feed.refused,
    }
    return told | ({"reason": reason} if reason else {})


def _reason(line: dict[str, Any]) -> str:
    faults = [f"{fault['pointer']} {fault['detail']}" for fault in line.get("errors", ())]
    return ", ".join(faults) or str(line["error"])


async def _pieces(content: IO[bytes]) -> AsyncIterator[bytes]:
    content.seek(0)
    while piece := await asyncio.to_thread(content.read, PIECE):
        yield piece


async def _settled(request: Request, engine: Engine, shelf: Shelf, report: Report) -> bool:
    """Whether all that was taken can be found before patience ends; what can't be embedded has failed after all."""
    if report.ticket is None:
        return True
    work = engine.ingest.settled(shelf, report.ticket, report.through)
    try:
        failed = await in_time(request, engine.settings.ingest_timeout, work)
    except TimedOut:
        return False
    for each in report.files:
        if each.get("id") in failed:
            each |= {"status": "failed", "reason": f"can't be embedded: {failed[each['id']]}"}
    for place, versions in report.lines.items() if failed else ():
        _tell_of(report.files[place], *await engine.ingest.failures(report.ticket, *versions))
    return True


def _tell_of(file: dict[str, Any], count: int, failed: dict[str, str]) -> None:
    """Of lines that became documents, and can't be embedded: where none of them can, the file has failed."""
    if not count:
        return
    named = [f"document '{each}' can't be embedded: {failed[each]}" for each in list(failed)[:NAMED]]
    file["reason"] = "; ".join([*filter(None, [file.get("reason")]), *named])
    taken = sum(file["documents"].values())
    file["documents"] = dict(file["documents"]) | {"failed": count}
    if count == taken:
        file["status"] = "failed"
