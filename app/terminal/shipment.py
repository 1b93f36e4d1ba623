"""Files on their way to the service: those that it has are not sent, the others go a few at a time."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import quote

import httpx

from app.files.types import PATH
from app.stores.metadata import LONG
from app.terminal.client import Client, Refused, read_json
from app.terminal.sources import Source

ASKED = 1000
"""Files that the service is asked about at once."""

NAMED = 5000
"""Names in one filter; it may have 20,000 values."""

FILES, BYTES = 8, 16 * 2**20
"""Sent at once, so that a service that is stopped has little to do again."""

AT_ONCE = 3
"""Uploads under way together: while one is converted, another one comes in."""

NOT_INSTALLED = 501
"""The answer to files of which the service can read none."""

UNFIT = (400, 413, 422, NOT_INSTALLED)
"""Answers that are about what was sent, and not about the service."""

REFUSED_BEFORE = "refused before"
"""What becomes of a file that the service could not read before, beside what the service itself says."""

UNSAID = re.compile(r'["\\\x00-\x1f]')
"""In a name: what does not come out of a form as it went in."""

TIMEOUT = httpx.Timeout(10.0, read=3600.0, write=300.0)
"""The service gives up on a file that takes too long; here it need not be known when."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """Files that the service has answered for, with the jobs that make them searchable."""

    size: int
    files: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)


class Shipment:
    """Sends the files among some sources to one collection."""

    def __init__(self, client: Client, collection: str, say: Callable[[str], None], *, retry: bool = False) -> None:
        """Files that could not be read before are sent again if that is asked for."""
        self._client = client
        self._collection = collection
        self._say = say
        self._retry = retry

    async def send(self, sources: Sequence[Source]) -> AsyncIterator[Shipped]:
        files = [source for source in sources if source.is_file]
        for start in range(0, len(files), ASKED):
            new: list[Source] = []
            async for shipped in self._known(files[start : start + ASKED], new):
                yield shipped
            async for shipped in self._send(new):
                yield shipped

    async def prune(self, sources: Sequence[Source]) -> int:
        """Delete what was made of files that are not among these; says how many there were."""
        kept = sorted(source.name for source in sources if source.is_file and _is_text(source.name))
        return sum([await self._delete(gone) for gone in _others(kept)])

    async def _delete(self, paths: dict[str, Any]) -> int:
        """A document's own metadata may have a `file.path` as well, but hardly all that a file's has."""
        wanted = {"file.path": paths, "file.sha256": {"$exists": True}, "file.converter": {"$exists": True}}
        answer = await self._client.patiently(
            "POST", "/documents/delete", self._say, json={"filter": wanted, "collection": self._collection}
        )
        return len(read_json(answer)["deleted"])

    async def _known(self, files: Sequence[Source], new: list[Source]) -> AsyncIterator[Shipped]:
        """What the service has or could not read before, and what can't be read here; the others are new."""
        hashes: dict[str, str] = {}
        for file in files:
            try:
                hashes[file.name] = await asyncio.to_thread(_sha256, file)
            except (OSError, UnicodeEncodeError) as error:
                yield _failed(file, error)
        asked = [{"path": path, "sha256": sha256} for path, sha256 in hashes.items()]
        answer = await self._client.patiently(
            "POST", "/ingest/files/known", self._say, json={"files": asked, "collection": self._collection}
        )
        told = read_json(answer)
        settled = {path: {"path": path, "status": "unchanged"} for path in told["known"]}
        if not self._retry:
            settled |= {each["path"]: {**each, "status": REFUSED_BEFORE} for each in told.get("refused", ())}
        new += [file for file in files if file.name in hashes and file.name not in settled]
        for file in files:
            if file.name in settled:
                yield Shipped(file.size, [settled[file.name]])

    async def _send(self, files: Sequence[Source]) -> AsyncIterator[Shipped]:
        """A few uploads side by side, each told of as soon as it is answered."""
        waiting, under_way = _parcels(files), set[asyncio.Task[Shipped]]()
        try:
            while True:
                while len(under_way) < AT_ONCE and (parcel := next(waiting, None)):
                    under_way.add(asyncio.create_task(self._upload(parcel)))
                if not under_way:
                    return
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _upload(self, parcel: Sequence[Source]) -> Shipped:
        """What became of these; where they can't be taken together, each on its own."""
        try:
            return await self._post(parcel)
        except (Refused, OSError) as error:
            if isinstance(error, Refused) and error.status not in UNFIT:
                raise
            if len(parcel) == 1 or (isinstance(error, Refused) and error.status == NOT_INSTALLED):
                alone = [_failed(file, error) for file in parcel]
            else:
                alone = [await self._upload([file]) for file in parcel]
        files = [file for shipped in alone for file in shipped.files]
        return Shipped(sum(each.size for each in alone), files, [job for shipped in alone for job in shipped.jobs])

    async def _post(self, parcel: Sequence[Source]) -> Shipped:
        with ExitStack() as opened:
            form = [
                ("files", (file.name, opened.enter_context(_as_it_is(file)), None, _naming(file))) for file in parcel
            ]
            answer = await self._client.patiently(
                "POST",
                "/ingest/files",
                self._say,
                files=form,
                data={"collection": self._collection, "wait": "false"},
                timeout=TIMEOUT,
            )
        told = read_json(answer)
        return Shipped(sum(file.size for file in parcel), told["files"], [told["job"]] if told["job"] else [])


def _naming(file: Source) -> dict[str, str]:
    return {PATH: quote(file.name)} if UNSAID.search(file.name) else {}


def _others(kept: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Conditions on a path that together mean all but these, in order of code points, each of no more than it may."""
    cuts = [kept[at][:LONG] for at in range(NAMED, len(kept), NAMED)]
    for first, last in zip(["", *cuts], [*cuts, None], strict=True):
        here = kept[bisect_left(kept, first) : bisect_left(kept, last) if last else None]
        yield {"$gte": first} | ({"$lt": last} if last else {}) | ({"$nin": here} if here else {})


def _is_text(name: str) -> bool:
    """A name may hold bytes that are no text; such a file was never taken in."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


@contextmanager
def _as_it_is(file: Source) -> Iterator[IO[bytes]]:
    """A copy, since a file that grows or shrinks while it is sent would break the request off."""
    with BytesIO() if file.size <= BYTES else TemporaryFile() as copy:
        with file.path.open("rb") as content:
            shutil.copyfileobj(content, copy)
        yield copy


def _parcels(files: Sequence[Source]) -> Iterator[list[Source]]:
    parcel: list[Source] = []
    for file in files:
        if parcel and (len(parcel) == FILES or sum(each.size for each in parcel) + file.size > BYTES):
            yield parcel
            parcel = []
        parcel.append(file)
    if parcel:
        yield parcel


def _sha256(file: Source) -> str:
    file.name.encode()  # a name may hold bytes that are no text
    with file.path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _failed(file: Source, error: Exception) -> Shipped:
    why = (
        "has a name that is not UTF-8: rename it"
        if isinstance(error, UnicodeEncodeError)
        else f"can't be sent: {error}"
    )
    name = file.name.encode("utf-8", "replace").decode()
    return Shipped(file.size, [{"path": name, "status": "failed", "reason": why}])
