"""More than the service can do, callers who leave, and an event loop that never stands still."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from time import monotonic, perf_counter, process_time, sleep

import httpx
import orjson
import pytest

from models.fake import FakeReranker
from models.types import Scores, Tokens
from tests.app.serving import PATIENCE, Service, body, documents, fakes, listening, problem, serving, until

JSON = {"content-type": "application/json"}
BLINK = 0.5
"""Seconds that the service may compute while the event loop stands still; measured here: .02 with documents of 2 MB, .1
with bodies of 18 MB. What it waits for a processor that others use is not counted."""

WORDS = [f"word{i}" for i in range(3000)]


def words(amount: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=amount))


@asynccontextmanager
async def never_still() -> AsyncIterator[list[float]]:
    """How long the service computed each time that the loop stood still, and a failure if that was too long once."""
    gaps = [0.0]
    gc.collect()
    gc.freeze()  # what hundreds of other tests have left behind is not looked through meanwhile

    async def tick() -> None:
        last = perf_counter(), process_time()
        while True:
            await asyncio.sleep(0.001)
            now = perf_counter(), process_time()
            gaps.append(min(now[0] - last[0], now[1] - last[1]))  # its threads compute more than one second in a second
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    try:
        yield gaps
    finally:
        ticking.cancel()
        gc.unfreeze()
    assert max(gaps) < BLINK, f"the event loop stood still for {max(gaps):.3f} s"


async def test_a_long_document_is_taken_in_without_holding_up_the_loop(service: Service) -> None:
    content = orjson.dumps({"documents": [{"id": "long", "text": words(60_000)}]})
    async with never_still():
        answer = await service.client.post("/ingest", content=content, headers=JSON)
    assert answer.status_code == 200


async def test_a_body_of_twenty_megabytes_is_read_without_holding_up_the_loop(service: Service) -> None:
    text = words(600)
    many = [{"id": f"d{i}", "text": text, "metadata": {"n": i, "tags": ["a", "b"]}} for i in range(4000)]
    content = orjson.dumps({"documents": [*many, {"id": "bad", "text": ""}]})
    assert len(content) > 18_000_000
    async with never_still():
        answer = await service.client.post("/ingest", content=content, headers=JSON)
    assert body(answer)["errors"] == [{"pointer": "/documents/4000/text", "detail": "is empty: send some text"}]


@pytest.mark.parametrize(
    "content",
    [
        b'{"documents": [' + b'{"x":1},' * 500_000 + b"{}]}",
        b'{"documents": [{' + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}]}",
        b'{"documents": [{"text": "x"}], ' + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}",
    ],
    ids=["documents without sense", "fields of a document", "fields of the body"],
)
async def test_millions_of_faults_are_not_all_looked_for(service: Service, content: bytes) -> None:
    began = process_time()
    async with never_still():
        answer = await service.client.post("/ingest", content=content, headers=JSON)
    assert answer.status_code == 422
    assert process_time() - began < 2


async def test_a_change_that_is_much_too_large_is_refused_without_holding_up_the_loop(service: Service) -> None:
    content = b'{"ids": ["a"], "metadata": {"tags": [' + b"0," * 3_000_000 + b"0]}}"
    async with never_still():
        one = await service.client.patch("/documents/a", content=content.replace(b'"ids": ["a"], ', b""), headers=JSON)
        many = await service.client.post("/documents/update", content=content, headers=JSON)
    problem(one, 422, "invalid")
    problem(many, 422, "invalid")


async def test_searches_and_large_filters_do_not_hold_up_the_loop(service: Service) -> None:
    await service.ingest(*documents(300))
    many = {"n": {"$in": list(range(15_000))}}

    async def caller(name: int) -> None:
        for i in range(10):
            await service.search(f"topic {i}", filter=many if (10 * name + i) % 20 == 0 else None)

    async with never_still():
        # A few at a time: the callers share the loop, and what they take to send their requests is no fault of ours.
        await asyncio.gather(*(caller(name) for name in range(6)))


async def test_a_search_that_does_not_fit_is_refused_before_any_work(tmp_path: Path) -> None:
    """Room for one search: of many at once some are served, the others are told when to come back."""
    async with serving(fakes(tmp_path, queue_tokens=1024)) as service:
        await service.ingest(*documents(20))
        request = {"query": "topic", "candidates": 1000}
        answers = await asyncio.gather(*(service.client.post("/search", json=request) for _ in range(30)))
        served = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert served
        assert refused
        for answer in refused:
            problem(answer, 429, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        assert service.sample("winnow_refusals_total", model="reranker:fake") == len(refused)
        assert service.sample("winnow_queue_tokens", model="reranker:fake", lane="search") == 0
        assert service.sample("winnow_stage_seconds_count", pipeline="search", stage="embed", part="compute") == len(
            served
        )
        assert (await service.client.post("/search", json=request)).status_code == 200


async def test_what_a_search_reads_in_windows_takes_room_as_long_as_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reading, score = Event(), Event(), FakeReranker.score

    def held_up(model: FakeReranker, batch: Sequence[Tokens]) -> Scores:
        reading.set()
        assert gate.wait(PATIENCE)
        return score(model, batch)

    gate.set()
    monkeypatch.setattr(FakeReranker, "score", held_up)
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": words(200)})

        def taken() -> float:
            return service.sample("winnow_queue_tokens", model="reranker:fake", lane="search")

        with service.engine.collections.shelf("default").ranker.admit(50):
            set_aside = taken()
        gate.clear()
        reading.clear()
        searching = asyncio.create_task(service.search("river " * 420, on_truncation="window"))
        try:
            await until(reading.is_set)
            assert taken() > set_aside + 512, "a second window is full at least"
        finally:
            gate.set()
        await searching
        assert taken() == 0


async def test_more_requests_than_allowed_are_refused_unread(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_requests=2)) as service:
        gate = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"id": "a", '
            await gate.wait()
            yield b'"text": "finally"}'

        async def feed() -> httpx.Response:
            return await service.client.post(
                "/ingest", content=slowly(), headers={"content-type": "application/x-ndjson"}
            )

        feeds = [asyncio.create_task(feed()) for _ in range(2)]
        await asyncio.sleep(0.05)
        answer = await service.client.post("/search", content=b"not even JSON", headers=JSON)
        problem(answer, 429, "overloaded")
        assert answer.headers["retry-after"]
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await service.client.get(path)).status_code == 200, "it lives, and is watched"
        gate.set()
        assert [each.status_code for each in await asyncio.gather(*feeds)] == [200, 200]
        assert await service.found("finally") == ["a"]
        assert service.sample("winnow_refusals_total", model="requests") == 1


async def test_a_search_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, search_timeout=0.0001)) as service:
        await service.ingest(*documents(5))
        answer = await service.client.post("/search", json={"query": "topic"})
        problem(answer, 503, "timed-out")
        assert answer.headers["retry-after"]


def test_work_for_a_caller_who_left_is_dropped(tmp_path: Path) -> None:
    """Each search holds a room that only one fits in: were it not given back, nobody would ever be served again."""
    with listening(fakes(tmp_path, queue_tokens=1024, batch_tokens=256)) as server:
        texts = [{"id": f"d{i}", "text": words(200, i)} for i in range(150)]
        assert server.post("/ingest", json={"documents": texts}).status_code == 200
        content = orjson.dumps({"query": words(100), "candidates": 150})
        head = "POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}"
        abandoned, deadline = 0.0, monotonic() + 15
        chance = random.Random(1)
        while not abandoned:
            assert monotonic() < deadline, "work was never dropped, whenever the caller left"
            with socket.create_connection((server.base_url.host, server.base_url.port or 80)) as client:
                client.sendall(head.encode() + b"\r\n\r\n" + content)
                sleep(chance.uniform(0.005, 0.2))
            abandoned = _sample(server.get("/metrics").text, 'winnow_abandoned_total{model="reranker:fake"}')
        deadline = monotonic() + 5
        while server.post("/search", json={"query": "word1", "candidates": 150}).status_code == 429:
            assert monotonic() < deadline, "the room of those who left was never given back"
            sleep(0.02)
        page = server.get("/metrics").text
        assert 'winnow_errors_total{kind="internal"} 1' not in page
        assert _sample(page, 'winnow_errors_total{kind="caller-left"}') >= 1


def _sample(page: str, name: str) -> float:
    return next((float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name)), 0.0)


async def test_a_search_that_is_not_reranked_waits_for_no_batch_that_reranks(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, reranker="fake:slow")) as service:
        await service.ingest(*documents(50))
        before = service.encoded("search", "reranker:fake:slow")
        long = asyncio.create_task(service.search("topic 3", candidates=50))
        while not service.sample("winnow_queue_tokens", model="reranker:fake:slow", lane="search"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        found = await service.search("topic 4", rerank=False)
        assert found["hits"]
        assert not long.done()
        await long
        assert service.encoded("search", "reranker:fake:slow") > before
