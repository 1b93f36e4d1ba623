"""What people made of answers: taken in, kept, and read out as data that the other commands take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import apsw
import httpx
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.errors import NotFound
from app.quality import dataset
from app.service import lessons
from app.stores.sqlite import Database
from models.training.pairs import read_pairs
from tests.app.serving import PATIENCE, Json, Service, body, fakes, listening, pointers, problem, serving, until
from tests.models.tiny import TEXTS, save_encoder

LONG = "a river runs to the sea " * 40 + "salt stays when the water evaporates " * 40
DOCUMENTS = (
    {"id": "sea", "title": "The sea", "text": LONG},
    {"id": "moon", "text": "the moon pulls on the ocean"},
    {"id": "bread", "text": "salt slows the yeast down"},
)
SALT = "why does salt stay"


async def give(service: Service, *given: Json) -> list[Json]:
    answer = await service.client.post("/feedback", json=list(given))
    assert answer.status_code == 200, answer.text
    kept: list[Json] = body(answer)["feedback"]
    return kept


async def read(service: Service, part: str, **asked: str | int) -> str:
    answer = await service.client.get(f"/feedback/{part}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.text


async def grades(service: Service, **asked: str | int) -> dict[str, int]:
    """Of the documents, for whichever query."""
    _, *lines = (await read(service, "qrels", **asked)).splitlines()
    return {line.split("\t")[1]: int(line.split("\t")[2]) for line in lines}


async def pairs(service: Service) -> list[Json]:
    return [json.loads(line) for line in (await read(service, "pairs")).splitlines()]


@contextmanager
def full(database: Database) -> Iterator[None]:
    """A disk that has no room for a commit."""
    raise apsw.FullError("database or disk is full")
    yield


async def test_the_same_feedback_counts_once_and_a_later_opinion_of_the_same_request_replaces_it(
    service: Service,
) -> None:
    await service.ingest(*DOCUMENTS)
    said = {"query": SALT, "document": "sea", "relevant": True}
    one = await service.client.post("/feedback", json=said)
    assert body(one) == {"feedback": [{"collection": "default", "document": "sea", "status": "created"}]}
    others: list[Json] = [said, said | {"relevant": False}, said | {"request_id": "r2"}]
    others += [{"query": SALT, "document": "sea", "clicked": True}]
    kept = await give(service, *others)
    assert [each["status"] for each in kept] == ["unchanged", "updated", "created", "created"]
    counts = [
        service.sample("winnow_feedback_total", collection="default", kind=kind)
        for kind in ("relevant", "irrelevant", "clicked")
    ]
    assert counts == [2, 0, 1]
    answer = await service.client.get("/feedback")
    assert body(answer) == {"collection": "default", "judged": 2, "clicked": 1, "queries": 1}


async def test_what_is_not_there_is_named_and_then_nothing_is_kept(service: Service) -> None:
    await service.ingest(*DOCUMENTS)
    (hit,) = (await service.search("moon pulls", top_k=1))["hits"]
    said = {"query": SALT, "relevant": True}
    wrong = [{"document": "sea"}, {"document": "lake"}, {"chunk": "999"}, {"chunk": hit["id"], "document": "bread"}]
    answer = await service.client.post("/feedback", json=[said | each for each in wrong])
    problem(answer, 422, "invalid")
    assert pointers(answer) == ["/1/document", "/2/chunk", "/3/chunk"]
    assert body(await service.client.get("/feedback"))["judged"] == 0
    problem(
        await service.client.post("/feedback", json=said | {"document": "sea", "collection": "no"}), 404, "not-found"
    )


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"query": SALT, "document": "sea"}, ""),
        ({"query": SALT, "document": "sea", "relevant": True, "grade": 2}, ""),
        ({"query": SALT, "relevant": True}, ""),
        ({"query": SALT, "document": "sea", "clicked": False}, "/clicked"),
        ({"query": SALT, "document": "sea", "grade": 4}, "/grade"),
        ({"query": " ", "document": "sea", "grade": 1}, "/query"),
        ({"query": "x" * 20_000, "document": "sea", "grade": 1}, "/query"),
        ({"query": SALT, "chunk": "first", "grade": 1}, "/chunk"),
        ({"query": SALT, "document": "sea", "grade": 1, "request_id": "two words"}, "/request_id"),
        ([], ""),
        ([{"query": SALT, "document": "sea", "grade": 1}] * 1001, ""),
        ("relevant", ""),
    ],
)
async def test_what_can_not_be_meant_is_refused_with_its_place(service: Service, given: object, place: str) -> None:
    answer = await service.client.post("/feedback", json=given)
    problem(answer, 422, "invalid")
    assert pointers(answer) == [place]


async def test_a_body_that_is_not_json_is_malformed(service: Service) -> None:
    answer = await service.client.post("/feedback", content=b"{", headers={"content-type": "application/json"})
    problem(answer, 400, "malformed")


async def test_the_lower_median_of_judgements_counts_and_clicks_only_where_nobody_judged(service: Service) -> None:
    await service.ingest(*DOCUMENTS)
    judged = [("sea", 3), ("sea", 2), ("sea", 0), ("moon", 1), ("moon", 0)]
    await give(
        service,
        *({"query": SALT, "document": each, "grade": n, "request_id": f"r{i}"} for i, (each, n) in enumerate(judged)),
        *({"query": SALT, "document": "moon", "clicked": True, "request_id": f"r{i}"} for i in range(9)),
        *({"query": SALT, "document": "bread", "clicked": True, "request_id": f"r{i}"} for i in range(2)),
    )
    assert await grades(service) == {"sea": 2, "moon": 0}
    assert await grades(service, clicks=2) == {"sea": 2, "moon": 0, "bread": 1}
    assert await grades(service, clicks=3) == {"sea": 2, "moon": 0}


async def test_a_pair_is_the_chunk_that_was_judged_or_the_one_with_the_query_s_words(service: Service) -> None:
    await service.ingest(*DOCUMENTS)
    (hit,) = (await service.search("river runs sea", top_k=1, mode="lexical", rerank=False))["hits"]
    assert hit["start"] == 0
    await give(
        service,
        {"query": SALT, "chunk": hit["id"], "relevant": True},
        {"query": SALT, "document": "bread", "relevant": False},
        {"query": SALT, "document": "moon", "relevant": False, "request_id": "a"},
        {"query": SALT, "document": "moon", "relevant": True, "request_id": "b"},
        {"query": "evaporates", "document": "sea", "grade": 3},
        {"query": "yeast and salt", "document": "bread", "relevant": True},
    )
    judged, other = sorted((each for each in await pairs(service) if each["title"]), key=lambda each: -len(each))
    assert judged["positive"] == LONG[: hit["end"]]
    assert judged["positive_id"] == "sea#0"
    assert judged["negatives"] == ["salt slows the yeast down"]  # and not the moon's, of which one said yes
    assert "evaporates" in other["positive"]
    assert other["positive_id"] != "sea#0"
    (whole,) = [each for each in await pairs(service) if each["query"] == "yeast and salt"]
    assert (whole["positive"], whole["positive_id"]) == ("salt slows the yeast down", "bread")
    passages = [json.loads(line) for line in (await read(service, "passages")).splitlines()]
    named = {each["_id"]: each["text"] for each in passages}
    assert all(named[each["positive_id"]] == each["positive"] for each in await pairs(service))


async def test_feedback_outlives_versions_and_absence_of_its_document_and_goes_with_its_collection(
    service: Service,
) -> None:
    await service.ingest(*DOCUMENTS)
    await give(
        service, {"query": SALT, "document": "moon", "grade": 2}, {"query": SALT, "document": "bread", "grade": 1}
    )
    await service.ingest({"id": "moon", "text": "the moon pulls on all of the ocean"})
    assert await grades(service) == {"moon": 2, "bread": 1}
    assert await grades(service, current="true") == {"bread": 1}
    await service.client.delete("/documents/moon")
    assert await grades(service) == {"bread": 1}
    await service.ingest(DOCUMENTS[1])
    assert await grades(service, current="true") == {"moon": 2, "bread": 1}

    assert (await service.client.delete("/collections/default")).status_code == 204
    assert (await service.client.post("/collections", json={"name": "default"})).status_code == 201
    await service.ingest(*DOCUMENTS)
    assert await grades(service) == {}


async def test_what_is_given_while_feedback_is_removed_is_answered_and_counted(service: Service) -> None:
    await service.ingest(*DOCUMENTS)
    for number in range(40):
        given = {"query": f"{SALT} {number}", "document": "sea", "relevant": True}
        answers = await asyncio.gather(
            service.client.post("/feedback", json=given),
            service.client.delete("/feedback", params={"collection": "default"}),
            service.client.post("/feedback", json=given | {"document": "moon"}),
        )
        assert [answer.status_code for answer in answers] == [200, 200, 200]


async def test_what_is_given_behind_a_removal_finds_the_room_that_it_made(tmp_path: Path) -> None:
    """Both are written before the event loop hears of the first."""
    async with serving(fakes(tmp_path, max_feedback=2)) as service:
        await service.ingest(*DOCUMENTS)
        said: list[Json] = [{"query": f"{SALT} {n}", "document": "sea", "relevant": True} for n in range(2)]
        await give(service, *said)
        database, held = service.engine.feedback._database, Event()
        waiting = database._writer._work_queue
        first = asyncio.ensure_future(database.write(lambda _: held.wait(PATIENCE)))
        removing = asyncio.ensure_future(service.client.delete("/feedback", params={"collection": "default"}))
        await until(lambda: waiting.qsize() == 1)
        giving = asyncio.ensure_future(service.client.post("/feedback", json=said))
        await until(lambda: waiting.qsize() == 2)
        held.set()
        database._writer.submit(lambda: None).result(PATIENCE)
        answers = await asyncio.gather(removing, giving, first)
        assert [answer.status_code for answer in answers[:2]] == [200, 200]
        problem(await service.client.post("/feedback", json={**said[0], "query": "more"}), 413, "too-large")


async def test_feedback_that_was_counted_and_could_not_be_kept_is_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(fakes(tmp_path, max_feedback=2)) as service:
        await service.ingest(*DOCUMENTS)
        said: list[Json] = [{"query": f"{SALT} {n}", "document": "sea", "relevant": True} for n in range(2)]
        with monkeypatch.context() as patched:
            patched.setattr(Database, "_becoming_another", full)
            problem(await service.client.post("/feedback", json=said), 507, "no-space")
        await give(service, *said)


async def test_an_export_breaks_off_rather_than_ends_where_its_collection_is_dropped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "DOCUMENTS", 1)
    await service.ingest(*DOCUMENTS)
    pages = service.engine.lessons.corpus(service.engine.collections.shelf("default"))
    assert b"bread" in await anext(pages)
    await service.client.delete("/collections/default")
    with pytest.raises(NotFound, match="dropped meanwhile"):
        _ = [page async for page in pages]


async def test_feedback_can_be_removed_and_there_is_an_end_to_it(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_feedback=2)) as service:
        await service.ingest(*DOCUMENTS)
        said: list[Json] = [{"query": f"{SALT} {n}", "document": "sea", "relevant": True} for n in range(3)]
        problem(await service.client.post("/feedback", json=said), 413, "too-large")
        await give(service, *said[:2])
        problem(await service.client.post("/feedback", json=said[2]), 413, "too-large")
        again = [said[0], said[1] | {"relevant": False}, said[1]]
        assert [each["status"] for each in await give(service, *again)] == ["unchanged", "updated", "updated"]
        problem(await service.client.post("/feedback", json=[*again, said[2]]), 413, "too-large")
        assert body(await service.client.get("/feedback"))["judged"] == 2
        answer = await service.client.delete("/feedback", params={"collection": "default"})
        assert body(answer) == {"removed": 2}
        assert [each["status"] for each in await give(service, said[2])] == ["created"]


def winnow(*arguments: object, **environment: str) -> str:
    environment |= {"WINNOW_ENCODER": "fake", "WINNOW_RERANKER": "fake", "COLUMNS": "200"}
    ran = CliRunner(env=environment).invoke(app, [*map(str, arguments)])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_what_is_exported_can_be_evaluated_with_mined_from_and_trained_on(tmp_path: Path) -> None:
    folder, mined = tmp_path / "my-data", tmp_path / "groups.jsonl"
    save_encoder("bert", tmp_path / "base")
    with listening(fakes(tmp_path / "data")) as client:
        texts = [f"{text} {n}" for n in range(4) for text in TEXTS]
        send(client, [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
        told = winnow("feedback", "show", "--url", client.base_url)
        assert "20 judged, 0 clicked, for 10 queries\n" in told
        options = ["--pairs", tmp_path / "pairs.jsonl", "--passages", tmp_path / "passages.jsonl"]
        told = winnow("feedback", "export", "--dataset", folder, *options, "--url", client.base_url)
        assert f"{folder / 'corpus.jsonl'}: 20 documents" in told
    read_back = dataset.read(folder)
    assert len(read_back.queries) == 10
    assert not read_back.notes
    assert any(pair.negatives for pair in read_pairs(tmp_path / "pairs.jsonl"))
    assert "nDCG@10" in winnow("evaluate", folder, "--no-rerank", "--no-cache", WINNOW_DATA_DIR=str(tmp_path / "e"))
    by = [f"--encoder={tmp_path / 'base'}", "--device=cpu", "--margin=2", "--twin=2"]
    winnow("mine", tmp_path / "passages.jsonl", tmp_path / "pairs.jsonl", "-o", mined, *by)
    given = [pair for pair in read_pairs(tmp_path / "pairs.jsonl") if pair.negatives]
    groups = {group["query"]: group["passages"] for group in map(json.loads, mined.read_text().splitlines())}
    assert all(set(pair.negatives) <= set(groups[pair.query][1:]) for pair in given)
    quick = ["--steps=2", "--batch=4", "--device=cpu", "--tokens=32", f"--base={tmp_path / 'base'}"]
    assert "ndcg@10" in winnow("train", "encoder", mined, "-o", tmp_path / "trained", *quick)


def send(client: httpx.Client, documents: Sequence[Json]) -> None:
    """Every other document is no answer to the query that its predecessor answers."""
    assert client.post("/ingest", json={"documents": documents}).status_code == 200
    given = [
        {"query": f"about {documents[n - n % 2]['text']}", "document": each["id"], "relevant": n % 2 == 0}
        for n, each in enumerate(documents)
    ]
    assert client.post("/feedback", json=given).status_code == 200
