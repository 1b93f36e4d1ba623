"""All that people do to a service at once, for as long as one likes: nothing is added that is not taken away again.

Every step leaves as many documents, files and collections behind as it found, so that what grows meanwhile leaks.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx

from loadtest.searching_while_ingesting import Corpus

WORDS = 40
FILES, QUESTIONS = 6, 500
BLOCK = 500
"""Documents that are taken in at once, to begin with."""
AT_ONCE = 16
"""Steps under way; one that would be more is left out."""
LEFT_ALONE = 5.0
"""Seconds that a client that leaves waits at the most for anything."""
ASKED: Sequence[dict[str, Any]] = (
    {},
    {"mode": "dense"},
    {"mode": "lexical", "highlight": True},
    {"exact": True, "rerank": False},
    {"candidates": "auto", "explain": True},
    {"candidates": 100, "deadline_ms": 30},
    {"filter": {"part": {"$in": [1, 2, 3]}}, "diversity": 0.5},
    {"filter": {"$and": [{"part": {"$gte": 4}}, {"kind": {"$exists": False}}]}, "group_by": "document", "expand": 1},
)
BAD: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("POST", "/search", {"content": b'{"query": "cut off', "headers": {"content-type": "application/json"}}),
    ("POST", "/search", {"json": {"query": "x", "filter": {"$near": 1}}}),
    ("POST", "/search", {"json": {"query": "x", "top_k": 10**6, "nonsense": True}}),
    ("POST", "/ingest", {"json": {"documents": [{"text": ""}]}}),
    ("POST", "/ingest", {"content": b"<xml/>", "headers": {"content-type": "text/xml"}}),
    ("POST", "/ingest/files", {"files": {"files": ("broken.pdf", b"%PDF-1.7 no more")}}),
    ("GET", "/documents/nobody", {}),
    ("GET", "/nowhere", {}),
)
"""Requests that ask for a 4xx, or for a report of what could not be read."""


@dataclass
class Seen:
    """What the clients were answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    """By step and status."""
    seconds: list[float] = field(default_factory=list)
    """Of searches since somebody last took them."""
    left_out: int = 0

    def taken(self) -> list[float]:
        seconds, self.seconds = self.seconds, []
        return seconds

    @property
    def failures(self) -> dict[str, int]:
        """Answers that nobody ought to get: no refusal of work, no fault of the caller's."""
        return {name: amount for name, amount in self.statuses.items() if name.split()[-1] in ("500", "501", "lost")}


class Traffic:
    """Clients of one service."""

    def __init__(self, client: httpx.AsyncClient, documents: int, seed: int) -> None:
        self._client, self._chance = client, random.Random(seed)
        self._corpus, self._documents = Corpus(WORDS), range(documents)
        self._questions = [self._corpus.query(self._chance) for _ in range(QUESTIONS)]
        self._address = (client.base_url.host, client.base_url.port or 80)
        self._collections = 0
        self.seen = Seen()
        self._steps: dict[Callable[[], Awaitable[None]], int] = {
            self._search: 50, self._replace: 14, self._delete_and_bring_back: 6, self._stream: 4, self._upload: 4,
            self._ask_wrongly: 8, self._leave: 8, self._look: 5, self._judge: 4, self._open_and_drop: 1,
        }  # fmt: skip
        """Things to do, by how often."""

    async def fill(self) -> None:
        """The documents and files that are then replaced."""
        for start in range(0, len(self._documents), BLOCK):
            await self._ingest("fill", self._documents[start : start + BLOCK])
        for number in range(FILES):
            await self._send("fill", "POST", "/ingest/files", files={"files": self._file(number)})

    async def try_all(self) -> None:
        """Each step once, however short the run is."""
        for step in self._steps:
            await step()

    async def run(self, rate: float, seconds: float) -> None:
        """So many steps a second, at random moments."""
        loop = asyncio.get_running_loop()
        end, following = loop.time() + seconds, loop.time()
        under_way = set[asyncio.Task[None]]()
        while (following := following + self._chance.expovariate(rate)) < end:
            await asyncio.sleep(max(following - loop.time(), 0.0))
            if len(under_way) >= AT_ONCE:
                self.seen.left_out += 1
                continue
            (step,) = self._chance.choices(list(self._steps), list(self._steps.values()))
            task = asyncio.ensure_future(step())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _search(self) -> None:
        asked = {"query": self._chance.choice(self._questions), **self._chance.choice(ASKED)}
        began = perf_counter()
        if await self._send("search", "POST", "/search", json=asked) == httpx.codes.OK:
            self.seen.seconds.append(perf_counter() - began)

    async def _replace(self) -> None:
        await self._ingest("replace", self._chance.sample(self._documents, 3), wait=self._chance.random() < 0.5)

    async def _delete_and_bring_back(self) -> None:
        numbers = self._chance.sample(self._documents, 3)
        chosen = [str(number) for number in numbers]
        how = {"filter": {"number": {"$in": numbers}}} if self._chance.random() < 0.5 else {"ids": chosen}
        await self._send("delete", "POST", "/documents/delete", json=how)
        await self._ingest("bring back", numbers)

    async def _stream(self) -> None:
        lines = b"".join(
            json.dumps(self._document(number)).encode() + b"\n" for number in self._chance.sample(self._documents, 20)
        )
        headers = {"content-type": "application/x-ndjson"}
        await self._send("stream", "POST", "/ingest", content=lines, headers=headers, params={"wait": "false"})

    async def _upload(self) -> None:
        file = self._file(self._chance.randrange(FILES))
        await self._send("upload", "POST", "/ingest/files", files={"files": file})

    async def _ask_wrongly(self) -> None:
        method, path, request = self._chance.choice(BAD)
        await self._send("ask wrongly", method, path, **request)

    async def _judge(self) -> None:
        """Of each question one document, again and again."""
        number = self._chance.randrange(QUESTIONS)
        opinion = {"query": self._questions[number], "document": str(number % len(self._documents))}
        await self._send("judge", "POST", "/feedback", json=opinion | {"grade": self._chance.randrange(4)})

    async def _look(self) -> None:
        path = self._chance.choice(["/metrics", "/readyz", "/collections", f"/documents/{self._a_document()}"])
        await self._send("look", "GET", path)

    async def _open_and_drop(self) -> None:
        """A collection that nobody has had before."""
        self._collections += 1
        name = f"passing{self._collections}"
        await self._send("open", "POST", "/collections", json={"name": name})
        await self._ingest("open", range(5), collection=name)
        await self._send("open", "POST", "/search", json={"query": "river", "collection": name})
        await self._send("drop", "DELETE", f"/collections/{name}")

    async def _leave(self) -> None:
        """Before the answer has come, in the middle of a body, or of a form."""
        search = json.dumps({"query": self._chance.choice(self._questions)}).encode()
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="half.md"\r\n\r\n' + b"half " * 1000
        sent = self._chance.choice([
            _head("/search", "application/json", len(search)) + search,
            _head("/search", "application/json", len(search) + 10) + search,
            _head("/ingest", "application/x-ndjson", 10**6) + json.dumps(self._document(0)).encode() + b"\n",
            _head("/ingest/files", "multipart/form-data; boundary=x", 10**6) + form,
        ])  # fmt: skip
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LEFT_ALONE):
                _, writer = await asyncio.open_connection(*self._address)
                writer.write(sent)
                await writer.drain()
                await asyncio.sleep(self._chance.uniform(0, 0.1))
                writer.transport.abort()
        self.seen.statuses["leave -"] += 1

    async def _ingest(self, step: str, numbers: Sequence[int], **more: Any) -> None:
        documents = [self._document(number) for number in numbers]
        await self._send(step, "POST", "/ingest", json={"documents": documents, **more})

    async def _send(self, step: str, method: str, path: str, **request: Any) -> int:
        try:
            status = (await self._client.request(method, path, **request)).status_code
        except httpx.TransportError:
            self.seen.statuses[f"{step} lost"] += 1
            return 0
        self.seen.statuses[f"{step} {status}"] += 1
        return status

    def _document(self, number: int) -> dict[str, Any]:
        """In a version that nobody has had before."""
        text = self._corpus.text(self._chance.randrange(10**9))
        return {"id": str(number), "text": text, "metadata": {"part": number % 10, "number": number}}

    def _a_document(self) -> str:
        return str(self._chance.choice(self._documents))

    def _file(self, number: int) -> tuple[str, bytes]:
        """CSV is read in a sandbox, Markdown here."""
        text = self._corpus.text(self._chance.randrange(10**9))
        if number % 2:
            return f"{number}.md", f"# {number}\n\n{text}\n\n## More\n\n{text}\n".encode()
        return f"{number}.csv", f"name,text\n{number},{text}\n".encode()


def _head(path: str, kind: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
