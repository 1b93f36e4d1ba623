from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.types import Wording
from loadtest.searching_while_ingesting import COLLECTION, Asking, Corpus, count_lost, ingest, is_found, run_phase
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
