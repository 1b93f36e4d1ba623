"""What a key may have read, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import httpx
import orjson
import pytest

from app.errors import NoSpace
from app.service import ingest
from app.stores import documents as store
from app.stores.keys import KeyFile
from models.fake import FakeEncoder
from tests.app.serving import Service, body, documents, fakes, problem, serving

LIMIT = 400


class Keyed:
    """A service, and one of its keys."""

    def __init__(self, service: Service, id_: str, key: str) -> None:
        self.service, self.id = service, id_
        self._headers = {"x-api-key": key}

    async def post(self, path: str, content: object) -> httpx.Response:
        return await self.service.client.post(path, json=content, headers=self._headers)

    async def stream(self, *lines: object) -> httpx.Response:
        content = b"\n".join(orjson.dumps(line) for line in lines)
        headers = self._headers | {"content-type": "application/x-ndjson"}
        return await self.service.client.post("/ingest", content=content, headers=headers)

    @property
    def read(self) -> float:
        return self.service.sample("winnow_key_tokens_total", key=self.id)


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Keyed]:
    """A key of few tokens."""
    key, shown = KeyFile(tmp_path / "keys.json").create("few", ["search", "ingest"], [], LIMIT)
    async with serving(fakes(tmp_path)) as service:
        yield Keyed(service, key.id, shown)


async def test_a_search_is_counted_by_what_models_read_for_it_remembered_or_not(tmp_path: Path) -> None:
    key, shown = KeyFile(tmp_path / "keys.json").create("enough", ["search", "ingest"], [], 10_000)
    search = {"query": "some words", "candidates": 3, "top_k": 3}
    async with serving(fakes(tmp_path)) as service:
        keyed = Keyed(service, key.id, shown)
        assert (await keyed.post("/ingest", {"documents": documents(3, "a few words of text")})).status_code == 200
        before = keyed.read
        first = await keyed.post("/search", search)
        cost = keyed.read - before
        assert cost > 3 * 5
        assert 0 < int(first.headers["winnow-tokens-left"]) <= 10_000
        await keyed.post("/search", search)
        assert keyed.read - before == 2 * cost
        await keyed.post("/search", search | {"mode": "lexical", "rerank": False})
        assert keyed.read - before == 2 * cost, "a search by words asks no model"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/rerank", {"query": "a", "texts": ["b " * 300]}),
        ("/v1/embeddings", {"input": ["b " * 300]}),
        ("/ingest", {"documents": [{"text": "b " * 300}]}),
    ],
)
async def test_what_is_spent_is_refused_before_any_work_and_says_when_there_will_be_more(
    limited: Keyed, path: str, content: object
) -> None:
    assert (await limited.post(path, content)).status_code == 200
    read = limited.read
    assert 300 <= read < LIMIT
    refused = await limited.post(path, orjson.loads(orjson.dumps(content).replace(b"b ", b"c ")))
    told = problem(refused, 429, "spent")
    assert str(LIMIT) in told["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert int(refused.headers["winnow-tokens-left"]) < LIMIT / 2
    assert limited.read == read


async def test_many_at_once_get_no_more_than_one_after_the_other(limited: Keyed) -> None:
    asked = [limited.post("/rerank", {"query": "a", "texts": [f"t{i} " * 100]}) for i in range(20)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200, 429}
    assert limited.read <= LIMIT + 110


async def test_a_document_that_is_there_already_costs_nothing(limited: Keyed) -> None:
    batch = {"documents": [{"id": "a", "text": "b " * 300}]}
    assert (await limited.post("/ingest", batch)).status_code == 200
    assert body(await limited.post("/ingest", batch))["documents"][0]["status"] == "unchanged"


async def test_each_encoder_that_reads_a_document_is_paid_for(tmp_path: Path) -> None:
    read = []
    for sparse in ("", "fake"):
        folder = tmp_path / (sparse or "dense")
        key, shown = KeyFile(folder / "keys.json").create("enough", ["ingest"], [], 10_000)
        async with serving(fakes(folder, sparse=sparse)) as service:
            keyed = Keyed(service, key.id, shown)
            assert (await keyed.post("/ingest", {"documents": documents(3, "{0} of a few words")})).status_code == 200
            read.append(keyed.read)
    assert read[1] == 2 * read[0] > 0


async def test_a_stream_that_was_let_in_is_slowed_down_and_loses_nothing(tmp_path: Path) -> None:
    _, shown = KeyFile(tmp_path / "keys.json").create("few", ["ingest"], [], 6000)
    async with serving(fakes(tmp_path)) as service:
        keyed, loop = Keyed(service, "", shown), asyncio.get_running_loop()
        began = loop.time()
        answer = await keyed.stream(*({"id": str(i), "text": "word " * 60} for i in range(104)))
        *lines, summary = map(orjson.loads, answer.text.splitlines())
        assert (len(lines), summary["documents"], summary["refused"]) == (104, 104, 0)
        assert loop.time() - began > 1, "more than 104 * 60 tokens take more than a minute's worth of 6000"


async def test_a_stream_that_is_in_debt_is_refused_rather_than_held_for_an_hour(limited: Keyed) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await limited.stream({"id": "a", "text": "b " * 3000}, {"id": "b", "text": "c " * 3000})
    problem(answer, 429, "spent")
    assert int(answer.headers["retry-after"]) > 60
    assert loop.time() - began < 30
    kept = await limited.service.client.get("/documents/a", headers=limited._headers)
    assert kept.status_code == 200, "what was taken before stays"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/ingest", {"documents": [{"text": f"{i} " * 900} for i in range(20)]}),
        ("/embed", {"inputs": [f"{i} " * 900 for i in range(20)], "truncate": True}),
    ],
)
async def test_what_nobody_could_pay_for_is_not_even_split(
    limited: Keyed, path: str, content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await limited.post("/embed", {"inputs": ["b " * 300], "truncate": True})).status_code == 200
    monkeypatch.setattr(FakeEncoder, "tokenize", never)
    monkeypatch.setattr(ingest, "_split", never)
    problem(await limited.post(path, content), 429, "spent")


async def test_a_file_is_not_converted_for_who_has_nothing_left(limited: Keyed) -> None:
    await limited.post("/embed", {"inputs": ["b " * 600], "truncate": True})
    before = limited.service.sample("winnow_stage_seconds_count", pipeline="ingest", stage="convert", part="compute")
    form = [("files", ("a.csv", b"a,b\n1,2\n"))]
    answer = await limited.service.client.post("/ingest/files", files=form, headers=limited._headers)
    problem(answer, 429, "spent")
    after = limited.service.sample("winnow_stage_seconds_count", pipeline="ingest", stage="convert", part="compute")
    assert after == before


async def test_what_could_not_be_kept_is_not_charged(limited: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise NoSpace("The disk is full.")

    monkeypatch.setattr(store, "put", full)
    for _ in range(3):
        problem(await limited.post("/ingest", {"documents": [{"id": "a", "text": "b " * 300}]}), 507, "no-space")
    monkeypatch.undo()
    assert (await limited.post("/ingest", {"documents": [{"id": "a", "text": "b " * 300}]})).status_code == 200
    assert 300 <= limited.read < LIMIT


def never(*_: object) -> NoReturn:
    raise AssertionError("this is work")
