"""The whole service with fake models, in this process: over ASGI where that will do, otherwise over a socket."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.engine import Engine
from app.main import create_app
from app.service.collections import Collections
from app.settings import Settings
from app.stages.embed import Embedder

PATIENCE = 20.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Service:
    """A service that runs, and a client of it."""

    app: FastAPI
    client: httpx.AsyncClient

    @property
    def engine(self) -> Engine:
        engine: Engine = self.app.state.engine
        return engine

    def sample(self, name: str, **labels: str) -> float:
        """A metric as it stands."""
        return self.engine.metrics.registry.get_sample_value(name, labels) or 0.0

    def encoded(self, lane: str = "ingest", model: str = "encoder:fake") -> float:
        """How many batches the encoder has computed."""
        return self.sample("winnow_batch_tokens_count", model=model, lane=lane)

    async def ready(self) -> None:
        await until(lambda: not self.engine.readiness.reasons())

    async def ingest(self, *documents: Json, **more: object) -> Json:
        """Take these in and wait until they can be found."""
        answer = await self.client.post("/ingest", json={"documents": documents, **more})
        assert answer.status_code == 200, answer.text
        return body(answer)

    async def search(self, query: str, **more: object) -> Json:
        answer = await self.client.post("/search", json={"query": query, **more})
        assert answer.status_code == 200, answer.text
        return body(answer)

    async def found(self, query: str, **more: object) -> list[str]:
        """The documents of the hits, best first."""
        return [hit["document_id"] for hit in (await self.search(query, **more))["hits"]]

    async def finished(self, job: str) -> Json:
        """What there is to know of a job when it does not run any more."""
        deadline = monotonic() + PATIENCE
        while (found := body(await self.client.get(f"/jobs/{job}")))["state"] == "running":
            assert monotonic() < deadline, f"the job never ended: {found}"
            await asyncio.sleep(0.01)
        return found


def fakes(data_dir: Path, **more: Any) -> Settings:
    """Settings for a service without weights, with room for whatever a test sends at once, every candidate read, and
    nobody who looks at a search once more while a test counts what the models do."""
    chosen: Json = {"data_dir": data_dir, "encoder": "fake", "reranker": "fake", "candidates": 50, "observe_share": 0.0}
    return Settings(**(chosen | {"queue_tokens": 10**8, "queue_seconds": 3600.0} | more))


@asynccontextmanager
async def serving(settings: Settings, *, ready: bool = True, private: bool = False) -> AsyncIterator[Service]:
    """The service in this event loop."""
    app = create_app(settings, private=private)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE) as client:
            service = Service(app, client)
            if ready:
                await service.ready()
            yield service


@contextmanager
def listening(settings: Settings) -> Iterator[httpx.Client]:
    """The service on a socket, in a thread with an event loop of its own."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert monotonic() < deadline, "the server took too long to start"
            sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            while client.get("/readyz").status_code != 200:
                sleep(0.01)
            yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


@contextmanager
def held_up(owner: type, name: str) -> Iterator[None]:
    """Whoever calls this coroutine of a class waits until this ends."""
    gate, original = asyncio.Event(), getattr(owner, name)

    async def waiting(*given: Any, **more: Any) -> Any:
        await gate.wait()
        return await original(*given, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, waiting)
        try:
            yield
        finally:
            gate.set()


def nothing_embedded() -> AbstractContextManager[None]:
    """What comes in before this ends is acknowledged, and waits to be found."""
    return held_up(Embedder, "documents")


def nothing_opened() -> AbstractContextManager[None]:
    """A service that starts before this ends is not ready."""
    return held_up(Collections, "open")


async def until(holds: Any, seconds: float = PATIENCE) -> None:
    """Wait for a condition, or fail."""
    deadline = monotonic() + seconds
    while not holds():
        assert monotonic() < deadline, "it never came to pass"
        await asyncio.sleep(0.005)


def body(answer: httpx.Response) -> Json:
    found: Json = answer.json()
    return found


def pointers(answer: httpx.Response) -> list[str]:
    """The places that a problem document names."""
    return [each["pointer"] for each in body(answer).get("errors", [])]


def problem(answer: httpx.Response, status: int, kind: str) -> Json:
    """A problem document as RFC 9457 wants it."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    found = body(answer)
    assert found["status"] == status
    assert found["type"] == f"urn:winnow:problem:{kind}"
    assert found["title"]
    assert found["detail"]
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


def documents(amount: int, text: str = "topic {0} of many words", **metadata: object) -> Sequence[Json]:
    """Documents d0, d1, … with a number in text and metadata."""
    return [{"id": f"d{i}", "text": text.format(i), "metadata": {"n": i, **metadata}} for i in range(amount)]


async def lose(folder: Path, *given: Json) -> None:
    """Let documents come in that only the indexes know afterwards, since the database alone is put back."""
    database, copy = folder / "winnow.db", folder / "copy.db"
    shutil.copy(database, copy)
    async with serving(fakes(folder)) as service:
        await service.ingest(*given)
    assert not database.with_name("winnow.db-wal").exists()
    shutil.copy(copy, database)
