"""POST /rerank as clients of text-embeddings-inference, Cohere, Jina and infinity ask and read it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from app.api.compat_schemas import RankReply, ResultsReply
from tests.app.api.test_load import JSON, never_still, words
from tests.app.serving import Json, Service, fakes, listening, pointers, problem, serving

QUERY = "salt of the sea"
TEXTS = ["bread", "the sea", "salt of the sea", "sea salt"]
BEST_FIRST = [2, 1, 3, 0]
LONG = "word " * 600
"""More than the fake reranker reads."""

ROUTES = ("/rerank", "/v1/rerank", "/v2/rerank")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with listening(fakes(tmp_path_factory.mktemp("data"))) as client:
        yield client


def ask(server: httpx.Client, path: str = "/rerank", **fields: Any) -> httpx.Response:
    answer = server.post(path, json={"query": QUERY, **fields})
    assert answer.status_code == 200, answer.text
    return answer


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_texts_come_back_best_first_with_their_places_and_scores_between_0_and_1(server: httpx.Client) -> None:
    told = ask(server, texts=TEXTS).json()
    assert [rank["index"] for rank in told] == BEST_FIRST
    assert [set(rank) for rank in told] == [{"index", "score"}] * 4
    raw = ask(server, texts=TEXTS, raw_scores=True).json()
    assert raw[0]["score"] == 1.0, "the fake reranker's best"
    assert [rank["score"] for rank in told] == pytest.approx([sigmoid(rank["score"]) for rank in raw])


def test_texts_are_told_where_that_is_asked_for(server: httpx.Client) -> None:
    told = [RankReply.model_validate(rank, strict=True) for rank in ask(server, texts=TEXTS, return_text=True).json()]
    assert [rank.text for rank in told] == [TEXTS[place] for place in BEST_FIRST]


@pytest.mark.parametrize("path", ROUTES)
def test_documents_come_back_as_results_with_usage(server: httpx.Client, path: str) -> None:
    told = ask(server, path, documents=TEXTS, model="fake", top_n=2).json()
    reply = ResultsReply.model_validate(told, strict=True)
    assert [result.index for result in reply.results] == BEST_FIRST[:2]
    assert reply.results[0].relevance_score == pytest.approx(sigmoid(1))
    assert "document" not in told["results"][0]
    assert reply.model == "fake"
    assert (
        reply.usage.total_tokens
        == reply.meta.tokens.input_tokens
        == 4 * (4 + 2) + sum(len(text.split()) for text in TEXTS)
    )
    assert "warnings" not in told["meta"]


def test_documents_may_be_objects_with_a_text_and_come_back_as_such(server: httpx.Client) -> None:
    told = ask(server, documents=["bread", {"text": "sea"}], return_documents=True, raw_scores=True).json()["results"]
    assert [(each["index"], each["document"]) for each in told] == [(1, {"text": "sea"}), (0, {"text": "bread"})]
    assert told[1]["relevance_score"] == 0


def test_each_answer_has_an_id_of_its_own(server: httpx.Client) -> None:
    assert len({ask(server, documents=["sea"]).json()["id"] for _ in range(3)}) == 3


def test_fields_without_effect_and_nulls_are_taken(server: httpx.Client) -> None:
    nothing: Json = {"top_n": None, "return_documents": None, "max_tokens_per_doc": None, "model": None, "priority": 3}
    assert len(ask(server, documents=TEXTS, **nothing).json()["results"]) == 4
    tei: Json = {"truncate": None, "raw_scores": None, "return_text": None}
    assert len(ask(server, texts=TEXTS, **tei, truncation_direction="Right").json()) == 4


def test_an_empty_text_among_others_is_ranked_last(server: httpx.Client) -> None:
    assert [rank["index"] for rank in ask(server, texts=["", "sea"]).json()] == [1, 0]


def test_too_long_a_text_is_refused_unless_truncate_says_otherwise(server: httpx.Client) -> None:
    for said in ({}, {"truncate": False}):
        answer = server.post("/rerank", json={"query": QUERY, "texts": ["sea", LONG], **said})
        told = problem(answer, 422, "invalid")
        assert pointers(answer) == ["/texts/1"]
        assert "has 606 tokens, of which the model reads 512" in told["errors"][0]["detail"]
        assert "truncate: true" in told["message"], "clients of other services show this alone"
    answer = ask(server, texts=["sea", LONG, LONG], truncate=True)
    assert answer.headers["winnow-truncated"] == "2"
    assert ask(server, texts=["sea"]).headers["winnow-truncated"] == "0"


def test_a_service_can_be_told_to_truncate_what_does_not_say(tmp_path: Path) -> None:
    with listening(fakes(tmp_path, auto_truncate=True)) as server:
        assert ask(server, texts=["sea", LONG]).headers["winnow-truncated"] == "1"
        assert server.post("/rerank", json={"query": QUERY, "texts": [LONG], "truncate": False}).status_code == 422


@pytest.mark.parametrize("path", ROUTES)
def test_a_warning_names_documents_that_were_read_in_part(server: httpx.Client, path: str) -> None:
    answer = ask(server, path, documents=["sea", LONG, "salt", LONG])
    assert answer.json()["meta"]["warnings"] == [
        "Of 2 of 4 documents only a part was read beside the query; their indexes: 1, 3."
    ]
    assert answer.headers["winnow-truncated"] == "2"


def test_documents_can_be_refused_or_read_in_windows_instead(server: httpx.Client) -> None:
    late = LONG + QUERY
    assert ask(server, documents=[late, "sea"], raw_scores=True).json()["results"][0]["index"] == 1
    windows = ask(server, documents=[late, "sea"], raw_scores=True, on_truncation="window")
    assert windows.json()["results"][0] == {"index": 0, "relevance_score": pytest.approx(1.0)}
    assert windows.headers["winnow-truncated"] == "0"
    refused = server.post("/v2/rerank", json={"query": QUERY, "documents": [late], "on_truncation": "refuse"})
    problem(refused, 422, "invalid")
    assert pointers(refused) == ["/documents/0"]


def test_a_document_without_a_word_is_read_in_windows_too(server: httpx.Client) -> None:
    answer = ask(server, query="why " * 600, documents=["", "sea"], on_truncation="window")
    assert {each["index"] for each in answer.json()["results"]} == {0, 1}


def test_no_more_of_a_document_is_read_than_asked_for_and_that_is_told(server: httpx.Client) -> None:
    texts = ["one two salt of the sea", "one sea", "salt of the sea"]
    told = ask(server, documents=texts, max_tokens_per_doc=2, raw_scores=True)
    assert {each["index"]: each["relevance_score"] > 0 for each in told.json()["results"]} == {
        0: False, 1: True, 2: True
    }  # fmt: skip
    assert told.json()["usage"]["total_tokens"] == 3 * (4 + 2 + 2)
    assert "indexes: 0, 2." in told.json()["meta"]["warnings"][0]
    roomy = ask(server, documents=texts, max_tokens_per_doc=4096).json()
    assert "warnings" not in roomy["meta"]


BAD: dict[str, tuple[Json, list[str]]] = {
    "neither texts nor documents": ({}, ["/documents"]),
    "both": ({"texts": ["a"], "documents": ["a"]}, ["/documents"]),
    "no documents": ({"documents": []}, ["/documents"]),
    "no texts": ({"texts": []}, ["/texts"]),
    "a text alone": ({"texts": "a"}, ["/texts"]),
    "a number among texts": ({"texts": ["a", 7]}, ["/texts/1"]),
    "an object among texts": ({"texts": ["a", {"text": "b"}]}, ["/texts/1"]),
    "an object with more than a text": ({"documents": [{"text": "b", "title": "c"}]}, ["/documents/0"]),
    "token ids": ({"documents": [[1, 2]]}, ["/documents"]),
    "an empty query": ({"query": " ", "documents": ["a"]}, ["/query"]),
    "an unknown field": ({"documents": ["a"], "rank_fields": ["b"]}, ["/rank_fields"]),
    "none of the results": ({"documents": ["a"], "top_n": 0}, ["/top_n"]),
    "a beginning that would be cut": ({"texts": ["a"], "truncation_direction": "left"}, ["/truncation_direction"]),
    "a truth as a string": ({"texts": ["a"], "raw_scores": "yes"}, ["/raw_scores"]),
    "several at once": ({"query": "", "documents": [1, 2, None]}, ["/query", "/documents"]),
}


@pytest.mark.parametrize(("fields", "expected"), BAD.values(), ids=BAD.keys())
def test_what_can_not_be_ranked_is_refused_at_the_bad_part(
    server: httpx.Client, fields: Json, expected: list[str]
) -> None:
    answer = server.post("/rerank", json={"query": QUERY, **fields})
    told = problem(answer, 422, "invalid")
    assert pointers(answer) == expected
    assert expected[0] in told["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_model_that_is_not_here_is_not_replaced_by_one_that_is(server: httpx.Client, path: str) -> None:
    answer = server.post(path, json={"query": QUERY, "documents": ["a"], "model": "rerank-v3.5"})
    assert "say 'fake'" in problem(answer, 404, "not-found")["message"]


def test_what_is_not_json_is_malformed(server: httpx.Client) -> None:
    problem(server.post("/rerank", content=b'{"query": ', headers=JSON), 400, "malformed")
    assert server.post("/rerank", json=None).status_code == 422


async def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    limits = {"max_candidates": 3, "max_text_chars": 20, "max_query_chars": 20, "max_body_bytes": 2000}
    async with serving(fakes(tmp_path, **limits)) as service:
        post = service.client.post
        assert pointers(await post("/rerank", json={"query": "a", "texts": ["a"] * 4})) == ["/texts"]
        assert pointers(await post("/rerank", json={"query": "a", "texts": ["a", "b" * 21]})) == ["/texts/1"]
        assert pointers(await post("/rerank", json={"query": "a" * 21, "texts": ["a"]})) == ["/query"]
        problem(await post("/rerank", json={"query": "a", "texts": ["b" * 2000]}), 413, "too-large")


async def test_a_ranking_is_measured_as_a_pipeline_of_its_own(service: Service) -> None:
    await service.client.post("/rerank", json={"query": QUERY, "texts": [LONG, "sea"], "truncate": True})
    for part in ("queue", "compute"):
        labels = {"pipeline": "rerank", "stage": "rerank", "part": part}
        assert service.sample("winnow_stage_seconds_count", **labels) == 1
    assert service.sample("winnow_truncated_texts_total", stage="rerank") == 1
    assert service.sample("winnow_request_seconds_count", route="/rerank", status="200") == 1


async def test_more_than_the_reranker_has_room_for_is_refused_with_the_time_to_come_back(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, queue_tokens=1024)) as service:
        asked = {"query": "word1", "documents": [words(100, seed) for seed in range(300)]}
        answers = await asyncio.gather(*(service.client.post("/v2/rerank", json=asked) for _ in range(12)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) < 12
        for answer in refused:
            problem(answer, 429, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        assert service.sample("winnow_refusals_total", model="reranker:fake") == len(refused)
        assert service.sample("winnow_queue_tokens", model="reranker:fake", lane="search") == 0


async def test_many_short_texts_are_let_in_where_there_is_room_for_them(tmp_path: Path) -> None:
    """However long the chunks are that searches read."""
    async with serving(fakes(tmp_path, queue_tokens=2048)) as service:
        with service.engine.collections.shelf("default").ranker.batcher.admit(1000):
            asked = {"query": "word1", "documents": [f"word{number}" for number in range(100)]}
            assert (await service.client.post("/v2/rerank", json=asked)).status_code == 200
            asked = {"query": "word1", "documents": [words(100, seed) for seed in range(100)]}
            problem(await service.client.post("/v2/rerank", json=asked), 429, "overloaded")


async def test_one_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, search_timeout=0.0001)) as service:
        answer = await service.client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
        assert problem(answer, 503, "timed-out")["message"]


async def test_hundreds_of_long_texts_do_not_hold_up_the_loop(service: Service) -> None:
    content = orjson.dumps({"query": words(5), "texts": [words(2000, i) for i in range(250)], "truncate": True})
    assert len(content) > 3_000_000
    async with never_still():
        answer = await service.client.post("/rerank", content=content, headers=JSON)
    assert answer.status_code == 200
    assert answer.headers["winnow-truncated"] == "250"
