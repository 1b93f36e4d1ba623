from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest

from app.api.calibration import CalibrationReply
from app.service.relevance import Relevance
from tests.app.serving import Json, Service, body, documents, fakes, held_up, pointers, problem, serving, until

PATH = "/collections/default/calibration"
SCALE = {"scores": [0.0, 1.0], "relevance": [0.1, 0.9]}


async def made(service: Service, **more: object) -> Json:
    """A calibration that fits the default collection's models."""
    known = body(await service.client.get(PATH))
    return {
        "mode": "hybrid", "encoder": known["encoder"], "reranker": known["reranker"], "sparse": known["sparse"],
        "reranked": SCALE, "unreranked": SCALE, "fusion": known["fusion"], **more,
    }  # fmt: skip


async def put(service: Service, **more: object) -> Json:
    answer = await service.client.put(PATH, json=await made(service, **more))
    assert answer.status_code == 200, answer.text
    return body(answer)


async def test_a_calibration_is_kept_shown_replaced_and_removed(service: Service) -> None:
    first = await put(service, measured={"seed": 1})
    again = await put(service, blend={"rerank": 0, "dense": 1, "lexical": 0}, measured={"seed": 2})
    assert (first["trouble"], again["measured"]) == (None, {"seed": 2})
    shown = body(await service.client.get(PATH))
    reply = CalibrationReply.model_validate(shown)
    assert (reply.mode, [each.mode for each in reply.calibrations]) == ("hybrid", ["hybrid"])
    assert shown["calibrations"] == [again]
    assert (await service.client.delete(PATH)).status_code == 204
    assert body(await service.client.get(PATH))["calibrations"] == []
    problem(await service.client.delete(PATH), 404, "not-found")
    problem(await service.client.get("/collections/none/calibration"), 404, "not-found")


async def test_relevance_lies_between_the_knots_and_is_flat_beyond_them(service: Service) -> None:
    await service.ingest({"id": "all", "text": "red green blue"}, {"id": "none", "text": "black"})
    await put(service, reranked={"scores": [0.0, 0.5, 0.9], "relevance": [0.25, 0.5, 0.75]})
    found = {hit["document_id"]: hit["relevance"] for hit in (await service.search("red green blue"))["hits"]}
    assert found == {"all": 0.75, "none": 0.25}


async def test_what_is_relevant_does_not_depend_on_how_much_is_asked_for(service: Service) -> None:
    """A query's level is that of its ten best candidates, however few are shown."""
    await service.ingest(*documents(20, "red {0} green and blue"))
    scale = {"scores": [-1.0, 1.0], "relevance": [0.1, 0.9], "background": 1.0}
    for mode in ("dense", "lexical"):
        await put(service, mode=mode, reranked=scale, unreranked=scale)
        for rerank in (True, False):
            asked = {"mode": mode, "rerank": rerank}
            many = await service.search("red 7 and green", **asked)
            few = await service.search("red 7 and green", top_k=2, candidates=2, **asked)
            assert [hit["relevance"] for hit in few["hits"]] == [hit["relevance"] for hit in many["hits"][:2]]
            assert few["candidates"] == 10


async def test_a_hit_is_compared_with_its_rival(service: Service) -> None:
    """The second one for the first, the first one for all others."""
    await service.ingest(
        {"id": "a", "text": "red green blue"},
        {"id": "b", "text": "red green white"},
        {"id": "c", "text": "red black white"},
    )
    scale = {"scores": [-1.0, 1.0], "relevance": [0.1, 0.9], "background": 0.5, "rival": 0.5}
    await put(service, mode="dense", unreranked=scale)
    hits = (await service.search("red green blue", mode="dense", rerank=False))["hits"]
    best, second, third = scores = [hit["score"] for hit in hits]
    level = sum(scores) / 3
    odds = [2.197 * (one - 0.5 * level - 0.5 * other) for one, other in zip(scores, (second, best, best), strict=True)]
    assert best > second > third
    assert [hit["relevance"] for hit in hits] == pytest.approx([1 / (1 + math.exp(-each)) for each in odds], abs=1e-3)


async def test_one_from_before_there_were_rivals_holds_as_it_was(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(4, "red {0} green and blue"))
        await put(service, unreranked=SCALE | {"background": 0.5})
        before = (await service.search("red 2", rerank=False))["hits"]
    forget(tmp_path)
    async with serving(fakes(tmp_path)) as service:
        assert [hit["relevance"] for hit in (await service.search("red 2", rerank=False))["hits"]] == [
            hit["relevance"] for hit in before
        ]
        (kept,) = body(await service.client.get(PATH))["calibrations"]
        assert (kept["trouble"], kept["unreranked"]["background"], kept["unreranked"]["rival"]) == (None, 0.5, 0)


async def test_one_that_names_no_sparse_encoder_does_not_hold_where_there_is_one(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await put(service)
    forget(tmp_path)
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await service.ingest({"id": "a", "text": "green river bank"})
        answer = await service.client.post("/search", json={"query": "river", "min_relevance": 0.5})
        told = problem(answer, 422, "invalid")["errors"][0]["detail"]
        assert told == "it was made with no sparse encoder that it names: run `winnow calibrate` again"
        assert "relevance" not in (await service.search("river"))["hits"][0]


async def test_it_holds_for_its_own_sparse_encoder_alone(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        kept = await put(service)
        assert (kept["sparse"], kept["trouble"]) == (body(await service.client.get(PATH))["sparse"], None)
        for name, sparse in (("looked", "fake:lookup"), ("plain", "")):
            await service.client.post("/collections", json={"name": name, "sparse": sparse})
            refused = await service.client.put(f"/collections/{name}/calibration", json=kept_body(kept))
            assert "another sparse encoder: run" in problem(refused, 409, "conflict")["detail"]


async def test_the_refitted_blend_takes_the_place_of_the_rerankers_own(service: Service) -> None:
    await service.ingest({"id": "b", "text": "bank river green"}, {"id": "a", "text": "green river bank sea"})
    assert (await service.found("green river bank"))[0] == "a"
    await put(service, blend={"rerank": 0, "dense": 1, "lexical": 0})
    found = await service.search("green river bank")
    assert [hit["document_id"] for hit in found["hits"]] == ["b", "a"]
    assert all(hit["score"] == pytest.approx(hit["stages"]["dense"]["score"]) for hit in found["hits"])


async def test_it_outlives_a_restart_but_no_change_of_models(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "a", "text": "green river bank"})
        kept = await put(service)
    async with serving(fakes(tmp_path)) as service:
        assert body(await service.client.get(PATH))["calibrations"] == [kept]
        assert "relevance" in (await service.search("river"))["hits"][0]
    async with serving(fakes(tmp_path, reranker="fake:backwards"), ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        assert "relevance" not in (await service.search("river"))["hits"][0]
        (note,) = body(await service.client.get("/collections/default"))["calibrations"]
        assert "another reranker" in note["trouble"]
        told = problem(
            await service.client.post("/search", json={"query": "river", "min_relevance": 0.5}), 422, "invalid"
        )
        assert "another reranker: run `winnow calibrate` again" in told["errors"][0]["detail"]
        problem(await service.client.put(PATH, json=kept_body(kept)), 409, "conflict")


async def test_a_dropped_collection_takes_it_along(service: Service) -> None:
    await service.client.post("/collections", json={"name": "books"})
    path = "/collections/books/calibration"
    assert (await service.client.put(path, json=await made(service))).status_code == 200
    await service.client.delete("/collections/books")
    await service.client.post("/collections", json={"name": "books"})
    assert body(await service.client.get(path))["calibrations"] == []


async def test_one_for_a_collection_that_is_dropped_before_it_is_kept_is_told_so(service: Service) -> None:
    await service.client.post("/collections", json={"name": "books"})
    given = await made(service)
    with held_up(Relevance, "keep"):
        keeping = asyncio.create_task(service.client.put("/collections/books/calibration", json=given))
        await asyncio.sleep(0.1)
        await service.client.delete("/collections/books")
    assert "dropped meanwhile" in problem(await keeping, 404, "not-found")["detail"]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "scores that fall": ({"reranked": {"scores": [1.0, 0.0], "relevance": [0.1, 0.9]}}, "/reranked/scores"),
    "relevance that falls": ({"reranked": {"scores": [0.0, 1.0], "relevance": [0.9, 0.1]}}, "/reranked/relevance"),
    "certainty": ({"unreranked": {"scores": [0.0, 1.0], "relevance": [0.0, 1.0]}}, "/unreranked/relevance"),
    "no knots": ({"unreranked": {"scores": [], "relevance": []}}, "/unreranked/scores"),
    "a knot too few": ({"reranked": {"scores": [0.0, 1.0], "relevance": [0.5]}}, "/reranked"),
    "too many knots": ({"reranked": {"scores": [*range(2000)], "relevance": [0.5] * 2000}}, "/reranked/scores"),
    "a rival that helps": ({"reranked": SCALE | {"rival": -0.5}}, "/reranked/rival"),
    "a negative weight": ({"blend": {"rerank": -1, "dense": 1, "lexical": 0}}, "/blend/rerank"),
    "a blend of nothing": ({"blend": {"rerank": 0, "dense": 0, "lexical": 0}}, "/blend"),
    "an unknown mode": ({"mode": "guess"}, "/mode"),
    "advice without a reason": ({"rerank": False}, ""),
    "too much that was measured": ({"measured": {"x": "y" * 70_000}}, "/measured"),
    "what was measured, within many lists": ({"measured": {"x": orjson.loads("[" * 40 + "]" * 40)}}, "/measured"),
    "what was measured, within hundreds": ({"measured": {"x": orjson.loads("[" * 500 + "]" * 500)}}, "/measured"),
}


@pytest.mark.parametrize(("more", "pointer"), FAULTS.values(), ids=FAULTS)
async def test_a_bad_calibration_is_refused_with_a_pointer(service: Service, more: Json, pointer: str) -> None:
    answer = await service.client.put(PATH, json=await made(service, **more))
    problem(answer, 422, "invalid")
    assert pointer in pointers(answer)


def forget(data_dir: Path) -> None:
    """Take out of the database what a calibration of an earlier version did not have."""
    with apsw.Connection(str(data_dir / "winnow.db")) as database:
        ((written,),) = database.execute("SELECT content FROM calibrations")
        content = orjson.loads(written)
        del content["sparse"], content["reranked"]["rival"], content["unreranked"]["rival"]
        database.execute("UPDATE calibrations SET content = ?", (orjson.dumps(content).decode(),))
    database.close()


def kept_body(kept: Json) -> Json:
    """What was shown, as it is sent."""
    return {name: value for name, value in kept.items() if name != "trouble"}
