"""Candidates put in order by their tokens before a reranker reads any: from ingest to hits, and across restarts."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from app.settings import Settings
from app.stores import soundness
from models.training.late import write_late
from tests.app.serving import Json, Service, body, fakes, pointers, problem, serving, until
from tests.models import tiny
from tests.models.test_late_head import head, late

# The mean of their words is near the query where few other words are; word by word the long one has all of it.
TEXTS = {
    "short": "green river",
    "long": "the old green boat goes down a river with bread and wine for all who wait at the mill",
    "none": "nothing of that kind",
}
QUERY = "green boat river"


@pytest.fixture
async def compared(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(fakes(tmp_path, encoder="fake:late")) as service:
        await service.ingest(*({"id": name, "text": text} for name, text in TEXTS.items()))
        yield service


async def test_candidates_are_put_in_order_by_their_tokens(compared: Service) -> None:
    found = await compared.search(QUERY, rerank=False)
    assert [hit["document_id"] for hit in found["hits"]][:2] == ["long", "short"]
    assert found["timings"]["late"]["compute"] > 0
    for place, hit in enumerate(found["hits"], 1):
        stages = hit["stages"]
        assert set(stages) == {"dense", "lexical", "fused", "late"}
        assert stages["late"]["rank"] == place
        expected = stages["dense"]["score"] + stages["lexical"]["score"] + 4 * stages["late"]["score"]
        assert hit["score"] == pytest.approx(expected, rel=1e-5)
    assert found["hits"][0]["stages"]["late"]["score"] == pytest.approx(1, abs=1e-3)
    assert found["reranked"] == 0


async def test_of_vectors_alone_the_words_say_nothing(compared: Service) -> None:
    hit = (await compared.search(QUERY, mode="dense", rerank=False))["hits"][0]
    assert set(hit["stages"]) == {"dense", "late"}
    assert hit["score"] == pytest.approx(hit["stages"]["dense"]["score"] + 4 * hit["stages"]["late"]["score"], rel=1e-5)


async def test_more_is_compared_than_is_answered(compared: Service) -> None:
    """The best word by word need not be the best by its vector."""
    assert await compared.found(QUERY, mode="dense", rerank=False, late=False, top_k=1) == ["short"]
    found = await compared.search(QUERY, mode="dense", rerank=False, top_k=1)
    assert ([hit["document_id"] for hit in found["hits"]], found["candidates"]) == (["long"], 3)


async def test_it_is_left_out_on_request(compared: Service) -> None:
    found = await compared.search(QUERY, rerank=False, late=False)
    assert "late" not in found["timings"]
    assert all(set(hit["stages"]) == {"dense", "lexical", "fused"} for hit in found["hits"])
    dense = await compared.search(QUERY, mode="dense", rerank=False, late=False)
    assert [hit["score"] for hit in dense["hits"]] == [hit["stages"]["dense"]["score"] for hit in dense["hits"]]
    assert dense["hits"][0]["document_id"] == "short"


async def test_a_search_by_words_alone_stays_one(compared: Service) -> None:
    found = await compared.search(QUERY, mode="lexical", rerank=False, highlight=True)
    assert all(hit["score"] == hit["stages"]["lexical"]["score"] for hit in found["hits"])
    assert "late" not in found["timings"]
    reranked = await compared.search(QUERY, mode="lexical")
    assert set(reranked["hits"][0]["stages"]) == {"dense", "lexical", "late", "rerank"}


async def test_the_reranker_reads_the_best_of_them_first(compared: Service) -> None:
    await compared.ingest(*({"id": f"d{n}", "text": f"green thing {n}"} for n in range(60)))
    found = await compared.search(QUERY, candidates="auto", top_k=4)
    assert 0 < found["reranked"] < found["candidates"] == 50
    best = next(hit for hit in found["hits"] if hit["document_id"] == "long")
    assert best["stages"]["late"]["rank"] == 1
    assert best["stages"]["rerank"]["score"] > 0


async def test_what_is_replaced_is_compared_by_what_it_says_now(compared: Service) -> None:
    await compared.ingest({"id": "long", "text": "an empty house"})
    assert (await compared.found(QUERY, rerank=False))[0] == "short"
    await compared.client.delete("/documents/short")
    hits = (await compared.search("house", rerank=False))["hits"]
    assert hits[0]["stages"]["late"]["score"] == pytest.approx(1, abs=1e-3)


async def test_after_a_restart_all_is_as_it_was(tmp_path: Path) -> None:
    settings = fakes(tmp_path, encoder="fake:late")
    async with serving(settings) as service:
        await service.ingest(*({"id": name, "text": text} for name, text in TEXTS.items()))
        before = (await service.search(QUERY, rerank=False))["hits"]
    async with serving(settings) as service:
        assert (await service.search(QUERY, rerank=False))["hits"] == before


async def test_a_collection_says_whether_it_has_them_and_may_do_without(compared: Service) -> None:
    assert body(await compared.client.get("/collections/default"))["late"] is True
    plain = body(await compared.client.post("/collections", json={"name": "plain", "late": False}))
    assert plain["late"] is False
    await compared.ingest({"id": "a", "text": "green river"}, collection="plain")
    found = await compared.search(QUERY, collection="plain", rerank=False)
    assert "late" not in found["timings"]
    assert set(found["hits"][0]["stages"]) == {"dense", "lexical", "fused"}


async def test_the_setting_decides_for_new_collections_and_leaves_old_ones_alone(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, encoder="fake:late", late=False)) as service:
        await service.ingest({"id": "a", "text": "green river"})
        assert body(await service.client.get("/collections/default"))["late"] is False
    async with serving(fakes(tmp_path, encoder="fake:late")) as service:
        assert body(await service.client.get("/collections/default"))["late"] is False
        await service.ingest({"id": "b", "text": "green field"})
        assert "late" not in (await service.search("green", rerank=False))["timings"]


async def test_a_standby_gives_them_to_documents_that_came_without(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, encoder="fake:late", late=False)) as service:
        await service.ingest(*({"id": name, "text": text} for name, text in TEXTS.items()))
        answer = await service.client.post("/collections/default/standby", json={"late": True})
        assert (answer.status_code, body(answer)["late"]) == (201, True)

        async def caught_up() -> bool:
            standby = body(await service.client.get("/collections/default"))["standby"]
            return not standby["behind"] + standby["pending"]

        while not await caught_up():
            pass
        assert (await service.client.post("/collections/default/switch", json={})).status_code == 200
        found = await service.search(QUERY, rerank=False)
        assert found["hits"][0]["document_id"] == "long"
        assert found["timings"]["late"]["compute"] > 0


async def test_an_encoder_that_makes_none_can_not_be_asked_for_them(service: Service) -> None:
    assert body(await service.client.get("/collections/default"))["late"] is False
    answer = await service.client.post("/collections", json={"name": "x", "late": True})
    problem(answer, 422, "invalid")
    assert pointers(answer) == ["/late"]
    assert "late" not in (await service.search("anything", rerank=False))["timings"]


async def test_a_check_misses_vectors_of_tokens_that_are_gone(compared: Service, tmp_path: Path) -> None:
    number = compared.engine.collections.shelf("default").collection.number
    with apsw.Connection(str(tmp_path / "winnow.db")) as db:
        assert list(soundness.of_collection(db, number, 64, sparse=False)) == []
        db.execute("DELETE FROM token_vectors WHERE chunk = (SELECT min(chunk) FROM token_vectors)")
        (told,) = soundness.of_collection(db, number, 64, sparse=False)
    assert told == "searchable chunks without vectors of their tokens: 1"


@pytest.fixture
def own(tmp_path: Path) -> Json:
    """A collection with a model of random weights; readiness asks none of these."""
    model = str(late("bert", tmp_path / "model"))
    return {"name": "own", "encoder": model, "recipe": {"chunk_tokens": 48, "overlap_tokens": 8}}


async def test_real_states_serve_from_ingest_to_hits(service: Service, own: Json) -> None:
    assert (await service.client.post("/collections", json=own)).status_code == 201
    texts = ({"id": str(number), "text": text} for number, text in enumerate(tiny.TEXTS))
    await service.ingest(*texts, collection="own")
    for number, text in enumerate(tiny.TEXTS):
        hit = (await service.search(text, collection="own", rerank=False))["hits"][0]
        assert hit["document_id"] == str(number)
        assert hit["stages"]["late"]["score"] == pytest.approx(1, abs=0.01)
    nothing = await service.search("\u00ad", collection="own", rerank=False)  # of which the tokenizer leaves nothing
    assert all(hit["stages"]["late"]["score"] == 0 for hit in nothing["hits"])


async def test_token_vectors_of_two_kinds_never_mix(tmp_path: Path, own: Json) -> None:
    settings = fakes(tmp_path / "data")
    async with serving(settings) as service:
        assert (await service.client.post("/collections", json=own)).status_code == 201
        await service.ingest({"id": "a", "text": "the bank of the river"}, collection="own")
    shutil.rmtree(tmp_path / "model" / "late")
    await refuses(settings)
    write_late(head(layer=2), tmp_path / "model")
    await refuses(settings)


async def refuses(settings: Settings) -> None:
    async with serving(settings, ready=False) as service:
        await until(lambda: "makes no more" in str(service.engine.collections.troubles()))
        answer = await service.client.post("/search", json={"query": "bank", "collection": "own"})
        problem(answer, 409, "encoder-mismatch")
