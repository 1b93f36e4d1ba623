from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.stores.keys import KeyFile
from app.terminal.client import Failure, Target
from app.types import Wording
from loadtest.process import Process
from loadtest.searching_while_ingesting import (
    COLLECTION,
    Asking,
    Corpus,
    count_lost,
    ingest,
    is_found,
    make_collection,
    run_phase,
)
from loadtest.service import free_port
from tests.app.serving import Service, fakes, serving

AMOUNT = 30
SLOW = 0.3


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(fakes(tmp_path)) as service:
        assert (await service.client.post("/collections", json={"name": COLLECTION})).status_code == 201
        assert await ingest(service.client, Corpus(40), 0, AMOUNT) > 0
        yield service


@asynccontextmanager
async def slow() -> AsyncIterator[Asking]:
    """One client of a service that takes its time and finds nothing."""
    app = FastAPI()

    @app.post("/search")
    async def search() -> dict[str, list[str]]:
        await asyncio.sleep(SLOW)
        return {"hits": []}

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Asking(client, Corpus(40), 1, "auto")


async def test_answers_that_come_after_the_end_count_with_the_time_that_they_took() -> None:
    async with slow() as asking:
        phase = await run_phase(asking, asyncio.sleep(SLOW / 10))
    assert len(phase.seconds) == 1
    assert phase.lasted >= phase.seconds[0] >= SLOW
    assert phase.rate <= 1 / SLOW


async def test_where_all_is_found_nothing_is_lost(filled: Service) -> None:
    assert await count_lost(filled.client, Corpus(40), AMOUNT) == 0
    assert await count_lost(filled.client, Corpus(40), AMOUNT + 1) >= 1, "there is none of the last number"


async def test_a_document_whose_words_are_not_found_is_lost_though_the_numbers_are_right(filled: Service) -> None:
    corpus, index = Corpus(40), filled.engine.collections.shelf(COLLECTION).indexes.lexical.index
    chunk = int(index.search(corpus.text(3), 1).chunks[0])
    index.apply([Wording(index.sequence, chunk, None), Wording(index.sequence, 10**6, "a stray")])
    assert [number for number in range(AMOUNT) if not await is_found(filled.client, corpus, number)] == [3]
    assert await count_lost(filled.client, corpus, AMOUNT) == 1


async def all_shards_are_ready(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nall shards are ready")
    await writer.drain()
    writer.close()


async def test_a_service_that_can_not_be_asked_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Failure, match="can't be reached"):
        await make_collection(Target(f"localhost:{free_port()}"))
    other = await asyncio.start_server(all_shards_are_ready, "127.0.0.1")
    async with other:
        with pytest.raises(Failure, match="another service"):
            await make_collection(Target(f"localhost:{other.sockets[0].getsockname()[1]}"))
    settings = fakes(tmp_path)
    key = KeyFile(settings.keys_file).create("a", ["admin"], [], None)[1]
    with Process(tmp_path) as service:
        service.await_ready()
        with pytest.raises(Failure, match="A key is needed"):
            await make_collection(Target(f"localhost:{service.port}"))
        monkeypatch.setenv("WINNOW_API_KEY", key)
        for _ in range(2):
            await make_collection(Target(f"localhost:{service.port}"))
