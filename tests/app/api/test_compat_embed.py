"""POST /v1/embeddings and GET /v1/models as OpenAI's clients ask and read them, POST /embed as those of TEI."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from app.api.compat_schemas import EmbeddingsReply, ServedModelsReply
from app.caller import Caller, acting
from app.errors import Overloaded
from app.service.scoring import Embedding
from loadtest.process import Process
from models.fake import FakeEncoder
from models.types import Tokens, Vectors
from tests.app.api.test_load import JSON, never_still, words
from tests.app.serving import PATIENCE, Json, Service, fakes, listening, pointers, problem, serving, until

LONG = "word " * 600
"""More than the fake encoder reads."""

Numbers = NDArray[np.float32]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with listening(fakes(tmp_path_factory.mktemp("data"))) as client:
        yield client


def ask(server: httpx.Client, **fields: Any) -> httpx.Response:
    answer = server.post("/v1/embeddings", json=fields)
    assert answer.status_code == 200, answer.text
    return answer


def vectors(answer: httpx.Response) -> Numbers:
    return np.array([each["embedding"] for each in answer.json()["data"]], np.float32)


def plain(server: httpx.Client, **fields: Any) -> httpx.Response:
    answer = server.post("/embed", json=fields)
    assert answer.status_code == 200, answer.text
    return answer


def test_texts_become_vectors_of_unit_length_in_their_order(server: httpx.Client) -> None:
    answer = ask(server, input=["the sea", "salt", "sea the"], model="fake:64")
    reply = EmbeddingsReply.model_validate(answer.json(), strict=True)
    assert [each.index for each in reply.data] == [0, 1, 2]
    assert reply.model == "fake:64"
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 3 + 2 + 3
    made = vectors(answer)
    assert made.shape == (3, 64)
    assert np.linalg.norm(made, axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert made[0] == pytest.approx(made[2], abs=1e-6), "the fake encoder knows no order"
    assert made[0] @ made[1] < 0.9


def test_a_text_alone_is_a_list_of_one(server: httpx.Client) -> None:
    assert vectors(ask(server, input="salt")).shape == (1, 64)
    assert np.array(plain(server, inputs="salt").json()).shape == (1, 64)


def test_base64_holds_the_same_numbers(server: httpx.Client) -> None:
    texts = ["the sea", "salt"]
    packed = ask(server, input=texts, encoding_format="base64").json()["data"]
    unpacked = [np.frombuffer(b64decode(each["embedding"]), "<f4") for each in packed]
    assert np.array_equal(unpacked, vectors(ask(server, input=texts, encoding_format="float")))
    assert np.array_equal(unpacked, vectors(ask(server, input=texts, encoding_format=None, user="me")))


def test_tei_gets_the_same_vectors_without_anything_around_them(server: httpx.Client) -> None:
    texts = ["the sea", "salt"]
    made = plain(server, inputs=texts, normalize=True, truncate=False, truncation_direction="Right", prompt_name=None)
    assert plain(server, inputs=texts, normalize=None).json() == made.json()
    assert np.array_equal(np.array(made.json(), np.float32), vectors(ask(server, input=texts)))


def test_a_text_that_is_too_long_is_read_in_part_and_counted_in_a_header(server: httpx.Client) -> None:
    answer = ask(server, input=["sea", LONG, LONG])
    assert answer.headers["winnow-truncated"] == "2"
    assert answer.json()["usage"]["total_tokens"] == 2 + 512 + 512
    assert ask(server, input="sea").headers["winnow-truncated"] == "0"
    refused = server.post("/v1/embeddings", json={"input": ["sea", LONG], "on_truncation": "refuse"})
    told = problem(refused, 422, "invalid")
    assert pointers(refused) == ["/input/1"]
    assert "has 601 tokens, of which the model reads 512" in told["message"]


def test_tei_refuses_it_unless_truncate_says_otherwise(server: httpx.Client) -> None:
    for said in ({}, {"truncate": False}, {"truncate": None}):
        answer = server.post("/embed", json={"inputs": ["sea", LONG], **said})
        assert "truncate: true" in problem(answer, 422, "invalid")["message"]
        assert pointers(answer) == ["/inputs/1"]
    assert plain(server, inputs=["sea", LONG], truncate=True).headers["winnow-truncated"] == "1"


def test_a_service_can_be_told_to_truncate_what_does_not_say(tmp_path: Path) -> None:
    with listening(fakes(tmp_path, auto_truncate=True)) as server:
        assert plain(server, inputs=LONG).headers["winnow-truncated"] == "1"
        assert server.post("/embed", json={"inputs": LONG, "truncate": False}).status_code == 422


BAD: dict[str, tuple[Json, str]] = {
    "nothing": ({}, "/input"),
    "an empty list": ({"input": []}, "/input"),
    "a number": ({"input": 7}, "/input"),
    "token ids": ({"input": [1, 2, 3]}, "/input"),
    "several lists of token ids": ({"input": [[1, 2], [3]]}, "/input"),
    "an empty text": ({"input": ["a", ""]}, "/input/1"),
    "a blank text alone": ({"input": " "}, "/input/0"),
    "null among texts": ({"input": ["a", None]}, "/input/1"),
    "an unknown field": ({"input": "a", "late_chunking": True}, "/late_chunking"),
    "an unknown format": ({"input": "a", "encoding_format": "int8"}, "/encoding_format"),
    "an unknown side": ({"input": "a", "input_type": "classification"}, "/input_type"),
    "an unknown task": ({"input": "a", "task": "separation"}, "/task"),
    "a side said twice": ({"input": "a", "task": "retrieval.query", "input_type": "query"}, ""),
    "a length that was not trained": ({"input": "a", "dimensions": 32}, "/dimensions"),
    "no length": ({"input": "a", "dimensions": 0}, "/dimensions"),
    "windows": ({"input": "a", "on_truncation": "window"}, "/on_truncation"),
}


@pytest.mark.parametrize(("fields", "pointer"), BAD.values(), ids=BAD.keys())
def test_what_can_not_be_embedded_is_refused_at_the_bad_part(server: httpx.Client, fields: Json, pointer: str) -> None:
    answer = server.post("/v1/embeddings", json=fields)
    told = problem(answer, 422, "invalid")
    assert pointers(answer) == [pointer]
    assert pointer in told["message"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"inputs": [[1, 2]]}, "/inputs"),
        ({"inputs": ["a", ""]}, "/inputs/1"),
        ({"inputs": "a", "normalize": False}, "/normalize"),
        ({"inputs": "a", "truncation_direction": "left"}, "/truncation_direction"),
        ({"inputs": "a", "prompt_name": "poem"}, "/prompt_name"),
        ({"inputs": "a", "dimensions": 32}, "/dimensions"),
    ],
)
def test_the_same_goes_for_what_tei_takes(server: httpx.Client, fields: Json, pointer: str) -> None:
    answer = server.post("/embed", json=fields)
    problem(answer, 422, "invalid")
    assert pointers(answer) == [pointer]


def test_token_ids_are_refused_with_what_to_send_instead(server: httpx.Client) -> None:
    told = problem(server.post("/v1/embeddings", json={"input": [[1, 2]]}), 422, "invalid")
    assert "send texts" in told["message"]


def test_the_encoders_own_length_may_be_asked_for(server: httpx.Client) -> None:
    assert vectors(ask(server, input="a", dimensions=64)).shape == (1, 64)


def test_a_model_that_is_not_here_is_not_replaced_by_one_that_is(server: httpx.Client) -> None:
    answer = server.post("/v1/embeddings", json={"input": "a", "model": "text-embedding-3-small"})
    assert "say 'fake:64'" in problem(answer, 404, "not-found")["message"]


def test_models_are_listed_with_what_they_serve(server: httpx.Client) -> None:
    told = ServedModelsReply.model_validate(server.get("/v1/models").json(), strict=True)
    assert [(model.id, model.serves) for model in told.data] == [("fake:64", ["embeddings"]), ("fake", ["rerank"])]
    assert all(model.created > 1_700_000_000 for model in told.data)


async def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_documents=3, max_text_chars=20, max_body_bytes=2000)) as service:
        post = service.client.post
        assert pointers(await post("/v1/embeddings", json={"input": ["a"] * 4})) == ["/input"]
        assert pointers(await post("/embed", json={"inputs": ["a", "b" * 21]})) == ["/inputs/1"]
        problem(await post("/embed", json={"inputs": "b" * 2000}), 413, "too-large")


async def test_embedding_is_measured_as_a_pipeline_of_its_own(service: Service) -> None:
    await service.client.post("/v1/embeddings", json={"input": [LONG, "sea"]})
    for part in ("queue", "compute"):
        assert service.sample("winnow_stage_seconds_count", pipeline="embed", stage="embed", part=part) == 1
    assert service.sample("winnow_truncated_texts_total", stage="embed") == 1
    assert service.sample("winnow_request_seconds_count", route="/v1/embeddings", status="200") == 1


async def test_a_few_texts_go_with_the_searches_and_many_give_way_to_them(service: Service) -> None:
    few, many = [words(100)], [words(100, seed) for seed in range(30)]
    search, ingest = service.encoded("search"), service.encoded()
    await service.client.post("/v1/embeddings", json={"input": few})
    assert (service.encoded("search") - search, service.encoded() - ingest) == (1, 0)
    await service.client.post("/v1/embeddings", json={"input": many})
    assert service.encoded("search") - search == 1
    assert service.encoded() > ingest
    ingest = service.encoded()
    await service.client.post("/v1/embeddings", json={"input": many, "input_type": "query"})
    assert service.encoded() > ingest, "many questions are no single search"
    ingest = service.encoded()
    await service.client.post("/v1/embeddings", json={"input": words(2100)})
    assert service.encoded() == ingest, "one text is never many"


async def test_many_texts_come_back_in_their_order_whatever_slices_they_went_in(service: Service) -> None:
    texts = [f"word{i} " * (1 + i % 7) for i in range(1000)]
    whole = vectors(await service.client.post("/v1/embeddings", json={"input": texts}))
    for place in (0, 255, 256, 999):
        alone = vectors(await service.client.post("/v1/embeddings", json={"input": texts[place]}))
        assert whole[place] == pytest.approx(alone[0], abs=1e-6)


@pytest.mark.parametrize("amount", [2, 30], ids=["few", "many"])
async def test_more_than_there_is_room_for_is_refused_with_the_time_to_come_back(tmp_path: Path, amount: int) -> None:
    async with serving(fakes(tmp_path, queue_tokens=1024)) as service:
        asked = [{"input": [words(300, 100 * i + j) for j in range(amount)]} for i in range(12)]
        answers = await asyncio.gather(*(service.client.post("/v1/embeddings", json=each) for each in asked))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) < 12
        for answer in refused:
            problem(answer, 429, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        assert service.sample("winnow_refusals_total", model="encoder:fake") == len(refused)
        assert (await service.client.post("/v1/embeddings", json=asked[0])).status_code == 200, "room is given back"


async def test_a_key_that_embeds_long_lists_leaves_room_for_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, encode = Event(), FakeEncoder.encode

    def held_up(model: FakeEncoder, batch: Sequence[Tokens]) -> Vectors:
        assert gate.wait(PATIENCE)
        return encode(model, batch)

    gate.set()
    monkeypatch.setattr(FakeEncoder, "encode", held_up)
    async with serving(fakes(tmp_path, queue_tokens=10_000)) as service:

        def embed(key: str, seed: int) -> asyncio.Task[Embedding]:
            with acting(Caller(key, has_key=True)):
                texts = [words(300, seed + number) for number in range(10)]
                return asyncio.create_task(service.engine.scoring.embed(texts, "document", "report"))

        gate.clear()
        try:
            greedy = [embed("greedy", 10 * number) for number in range(3)]
            await until(lambda: any(each.done() for each in greedy))
            other = embed("other", 100)
        finally:
            gate.set()
        assert len((await other).vectors) == 10
        came = await asyncio.gather(*greedy, return_exceptions=True)
        assert [isinstance(each, Overloaded) for each in came].count(True) == 1


async def test_thousands_of_texts_do_not_hold_up_the_loop(service: Service) -> None:
    content = orjson.dumps({"input": [words(60, i) for i in range(5000)]})
    assert len(content) > 2_000_000
    async with never_still():
        answer = await service.client.post("/v1/embeddings", content=content, headers=JSON)
        assert answer.status_code == 200
    assert len(vectors(answer)) == 5000


def test_the_embedded_models_say_here_what_they_say_in_a_search(tmp_path: Path) -> None:
    query = "why is the sea salty?"
    texts = [
        "Rivers carry dissolved salts into the sea; the water evaporates and the salts stay.",
        "Salt slows the yeast down and tightens the dough.",
    ]
    with Process(tmp_path, ENCODER="embedded", RERANKER="embedded") as process:
        process.await_ready()
        post = process.client.post
        assert post("/ingest", json={"documents": [{"text": text} for text in texts]}).status_code == 200
        hits = post("/search", json={"query": query}).json()["hits"]
        asked = vectors(ask(process.client, input=query, input_type="search_query"))[0]
        held = vectors(ask(process.client, input=texts))
        short = vectors(ask(process.client, input=texts, dimensions=128))
        raw = post("/rerank", json={"query": query, "texts": texts, "raw_scores": True}).json()
        shown = post("/v1/rerank", json={"query": query, "documents": texts}).json()["results"]
    found = {hit["text"]: {stage: told["score"] for stage, told in hit["stages"].items()} for hit in hits}
    assert held @ asked == pytest.approx([found[text]["dense"] for text in texts], abs=0.02)
    assert [rank["score"] for rank in raw] == pytest.approx(
        [found[texts[rank["index"]]]["rerank"] for rank in raw], abs=0.05
    )
    assert [each["relevance_score"] for each in shown] == pytest.approx(
        [1 / (1 + np.exp(-rank["score"])) for rank in raw], abs=0.01
    )
    first = held[:, :128] / np.linalg.norm(held[:, :128], axis=1, keepdims=True)
    assert short == pytest.approx(first, abs=0.01)
