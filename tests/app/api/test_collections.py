from __future__ import annotations

import gc
import shutil
import weakref
from errno import EMFILE
from pathlib import Path
from typing import NoReturn

import pytest

from app.api.schemas import CollectionReply, CollectionsReply
from app.service.indexes import Indexes
from tests.app.serving import Json, Service, body, documents, fakes, pointers, problem, serving, until


async def test_a_collection_is_created_listed_described_and_dropped(service: Service) -> None:
    made = await service.client.post(
        "/collections",
        json={"name": "books", "encoder": "fake:32", "recipe": {"chunk_tokens": 64, "title": "every"}},
    )
    assert made.status_code == 201
    reply = CollectionReply.model_validate(body(made), strict=True)
    assert (reply.name, reply.encoder, reply.reranker, reply.dimensions) == ("books", "fake:32", "fake", 32)
    assert reply.recipe.model_dump() == {"chunk_tokens": 64, "overlap_tokens": 32, "title": "every"}
    listed = CollectionsReply.model_validate(body(await service.client.get("/collections")), strict=True)
    assert [each.name for each in listed.collections] == ["books", "default"]
    assert body(await service.client.get("/collections/books")) == body(made)
    dropped = await service.client.delete("/collections/books")
    assert (dropped.status_code, dropped.content) == (204, b"")
    problem(await service.client.get("/collections/books"), 404, "not-found")


async def test_what_a_collection_holds_is_counted(service: Service) -> None:
    await service.ingest(*documents(3, "one two three"), {"id": "long", "text": "word " * 1000})
    described = body(await service.client.get("/collections/default"))
    assert (described["documents"], described["pending"], described["failed"]) == (4, 0, 0)
    assert described["bytes"] == 3 * len('one two three{"n":0}') + 5000 + len("{}")
    assert described["chunks"] == described["index_chunks"] > 6
    assert described["index_bytes"] >= 4 * 64 * described["chunks"]
    assert described["trouble"] is None


async def test_collections_with_encoders_of_their_own_live_side_by_side(service: Service) -> None:
    for name, encoder in (("small", "fake:32"), ("tiny", "fake:8")):
        await service.client.post("/collections", json={"name": name, "encoder": encoder})
        await service.ingest({"id": "a", "text": f"the {name} one"}, {"id": "b", "text": "other"}, collection=name)
    await service.ingest({"id": "a", "text": "the default one"})
    for name, dimensions in (("small", 32), ("tiny", 8), ("default", 64)):
        found = await service.search(f"the {name} one", collection=name, top_k=1)
        assert found["hits"][0]["text"] == f"the {name} one"
        assert found["models"]["encoder"] == f"fake:{dimensions}"


async def test_recipes_decide_how_documents_are_cut_and_are_part_of_the_fingerprint(service: Service) -> None:
    text = " ".join(f"w{i}" for i in range(300))
    prints = set()
    for name, recipe in (("a", {}), ("b", {"chunk_tokens": 16, "overlap_tokens": 0}), ("c", {"title": "never"})):
        made = await service.client.post("/collections", json={"name": name, "recipe": recipe})
        prints.add(body(made)["fingerprint"])
        await service.ingest({"id": "x", "text": text, "title": "A title"}, collection=name)
    assert len(prints) == 3
    chunks = [body(await service.client.get(f"/collections/{name}"))["chunks"] for name in "abc"]
    assert chunks[1] > 15 > chunks[0]


async def test_a_name_is_given_once(service: Service) -> None:
    assert (await service.client.post("/collections", json={"name": "a"})).status_code == 201
    told = problem(await service.client.post("/collections", json={"name": "a"}), 409, "conflict")
    assert "Drop it first" in told["detail"]
    problem(await service.client.post("/collections", json={"name": "default"}), 409, "conflict")


async def test_a_collection_that_could_not_be_opened_when_it_was_made_is_none_and_can_be_made_again(
    service: Service,
) -> None:
    async def fail(_: Indexes) -> NoReturn:
        raise OSError(EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Indexes, "open", fail)
        problem(await service.client.post("/collections", json={"name": "a"}), 500, "internal")
    assert [each["name"] for each in body(await service.client.get("/collections"))["collections"]] == ["default"]
    assert (await service.client.get("/readyz")).status_code == 200
    assert (await service.client.post("/collections", json={"name": "a"})).status_code == 201
    await service.ingest({"id": "x", "text": "topic"}, collection="a")
    assert await service.found("topic", collection="a") == ["x"]


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "a/b", "..", "_a", "-", "ä", "a" * 65, "a\n", 5, None, "a.b"], ids=repr
)
async def test_names_that_would_not_do_in_a_url_are_refused(service: Service, name: object) -> None:
    answer = await service.client.post("/collections", json={"name": name})
    problem(answer, 422, "invalid")
    assert pointers(answer) == ["/name"]


BAD_RECIPES: list[tuple[Json, list[str]]] = [
    ({"chunk_tokens": 1000}, ["/recipe/chunk_tokens", "/recipe/chunk_tokens"]),
    ({"chunk_tokens": 400}, ["/recipe/chunk_tokens"]),
    ({"chunk_tokens": 100, "overlap_tokens": 51}, ["/recipe/overlap_tokens"]),
    ({"chunk_tokens": 5}, ["/recipe/chunk_tokens"]),
    ({"overlap_tokens": -1}, ["/recipe/overlap_tokens"]),
    ({"title": "last"}, ["/recipe/title"]),
    ({"tokens": 5}, ["/recipe/tokens"]),
]


@pytest.mark.parametrize(("recipe", "expected"), BAD_RECIPES, ids=str)
async def test_a_recipe_that_the_models_can_not_follow_is_refused(
    service: Service, recipe: Json, expected: list[str]
) -> None:
    answer = await service.client.post("/collections", json={"name": "a", "recipe": recipe})
    assert answer.status_code == 422
    assert pointers(answer) == expected
    problem(await service.client.get("/collections/a"), 404, "not-found")


async def test_a_model_that_is_not_there_is_refused_with_the_names_that_would_do(service: Service) -> None:
    for field in ("encoder", "reranker"):
        answer = await service.client.post("/collections", json={"name": "a", field: "no such model"})
        told = problem(answer, 422, "invalid")
        assert "embedded" in told["detail"]


async def test_there_are_no_more_collections_than_allowed(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_collections=2)) as service:
        assert (await service.client.post("/collections", json={"name": "a"})).status_code == 201
        answer = await service.client.post("/collections", json={"name": "b"})
        assert 400 <= answer.status_code < 500


async def test_dropping_frees_the_name_and_the_files(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, snapshot_changes=1)) as service:
        await service.client.post("/collections", json={"name": "a"})
        await service.ingest(*documents(50), collection="a")
        folder = tmp_path / "indexes" / str(service.engine.collections.shelf("a").collection.number)
        await service.ingest(*documents(1), collection="a")
        assert (await service.client.delete("/collections/a")).status_code == 204
        assert not folder.exists()
        problem(await service.client.post("/search", json={"query": "x", "collection": "a"}), 404, "not-found")
        assert (await service.client.post("/collections", json={"name": "a"})).status_code == 201
        assert await service.found("topic", collection="a") == []
        await service.ingest(*documents(2), collection="a")
        assert sorted(await service.found("topic", collection="a")) == ["d0", "d1"]


async def test_dropping_takes_a_collection_out_of_the_metrics(service: Service) -> None:
    await service.client.post("/collections", json={"name": "passing"})
    await service.ingest(*documents(3), collection="passing")
    await until(lambda: service.sample("winnow_index_chunks", collection="passing") == 3)
    await service.client.delete("/collections/passing")
    page = (await service.client.get("/metrics")).text
    assert 'collection="passing"' not in page
    assert 'collection="default"' in page


async def test_the_default_collection_can_be_dropped_and_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(2))
        assert (await service.client.delete("/collections/default")).status_code == 204
        problem(await service.client.post("/search", json={"query": "x"}), 404, "not-found")
    async with serving(fakes(tmp_path)) as service:
        assert await service.found("topic") == []


async def test_starting_with_another_encoder_refuses_to_mix_and_the_other_collections_go_on(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3))
        await service.client.post("/collections", json={"name": "own", "encoder": "fake"})
        await service.ingest(*documents(3), collection="own")
    async with serving(fakes(tmp_path, encoder="fake:32"), ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        ready = await service.client.get("/readyz")
        assert ready.status_code == 503
        (reason,) = body(ready)["reasons"]
        for path, request in (("/search", {"query": "x"}), ("/ingest", {"documents": [{"text": "x"}]})):
            told = problem(await service.client.post(path, json=request), 409, "encoder-mismatch")
            assert told["detail"] in reason
            assert "WINNOW_ENCODER=fake" in told["detail"]
            assert "drop" in told["detail"]
        described = body(await service.client.get("/collections/default"))
        assert described["trouble"] == told["detail"]
        assert described["documents"] == 3
        assert sorted(await service.found("topic", collection="own")) == ["d0", "d1", "d2"]
        assert (await service.client.delete("/collections/default")).status_code == 204
        assert (await service.client.get("/readyz")).status_code == 200
        assert (await service.client.post("/collections", json={"name": "default"})).status_code == 201
        await service.ingest(*documents(1))
        assert await service.found("topic") == ["d0"]


async def test_another_prompt_makes_another_encoder_of_the_one_that_the_settings_name_and_of_no_other(
    tmp_path: Path,
) -> None:
    embedded = {"encoder": "embedded", "offline": True}
    async with serving(fakes(tmp_path, **embedded)) as service:
        await service.ingest(*documents(3))
    async with serving(fakes(tmp_path, **embedded, encoder_query_prompt="Represent: "), ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        told = problem(await service.client.post("/search", json={"query": "x"}), 409, "encoder-mismatch")
        assert "WINNOW_ENCODER=embedded and the same files and prompts" in told["detail"]
        assert (await service.client.delete("/collections/default")).status_code == 204
        assert (await service.client.post("/collections", json={"name": "default"})).status_code == 201
        await service.ingest(*documents(3))
        assert service.engine.collections.shelf("default").embedder.encoder.prompts["query"] == "Represent: "
        assert "d1" in await service.found("topic 1 of many words")
    other = fakes(tmp_path / "other", encoder="fake", encoder_query_prompt="Represent: ")
    async with serving(other) as service:
        await service.client.post("/collections", json={"name": "own", "encoder": "embedded"})
        assert service.engine.collections.shelf("own").embedder.encoder.prompts["query"] == ""


async def test_starting_with_another_reranker_changes_that_of_the_default_collection_alone(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3))
        await service.client.post("/collections", json={"name": "own"})
    for _ in range(2):
        async with serving(fakes(tmp_path, reranker="fake:8")) as service:
            described = body(await service.client.get("/collections"))["collections"]
            assert {each["name"]: each["reranker"] for each in described} == {"default": "fake:8", "own": "fake"}
            assert sorted(await service.found("topic")) == ["d0", "d1", "d2"]


async def test_going_back_to_the_first_encoder_brings_everything_back(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3))
    async with serving(fakes(tmp_path, encoder="fake:32"), ready=False) as service:
        await service.client.post("/search", json={"query": "x"})
    async with serving(fakes(tmp_path)) as service:
        assert sorted(await service.found("topic")) == ["d0", "d1", "d2"]


@pytest.mark.parametrize("damage", ["none", "deleted", "cut", "flipped", "manifest", "garbage"])
async def test_a_restart_keeps_everything_searchable_whatever_became_of_the_snapshot(
    tmp_path: Path, damage: str
) -> None:
    settings = fakes(tmp_path)
    async with serving(settings) as service:
        await service.ingest(*documents(120), {"id": "gone", "text": "gone"}, {"id": "old", "text": "old words"})
        await service.ingest({"id": "old", "text": "new words"})
        await service.client.delete("/documents/gone")
        expected = await service.search("topic 7 words", top_k=50)
    (snapshot,) = (tmp_path / "indexes").glob("*/*.hnsw")
    _damage(snapshot, damage)
    async with serving(settings) as service:
        found = await service.search("topic 7 words", top_k=50)
        assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [
            (hit["id"], hit["score"]) for hit in expected["hits"]
        ]
        assert found["index"]["fingerprint"] == expected["index"]["fingerprint"]
        assert [hit["text"] for hit in (await service.search("new words old gone", top_k=1))["hits"]] == ["new words"]
        await service.ingest({"id": "more", "text": "something more"})
        assert await service.found("something more", top_k=1) == ["more"]
        assert service.encoded() <= 2, "nothing but the new document and the known question is embedded"


async def test_an_index_that_had_to_be_rebuilt_is_saved_again(tmp_path: Path) -> None:
    settings = fakes(tmp_path)
    async with serving(settings) as service:
        await service.ingest(*documents(20))
    shutil.rmtree(tmp_path / "indexes")
    async with serving(settings) as service:
        assert len(await service.found("topic", top_k=20)) == 20
    assert len(list((tmp_path / "indexes").glob("*/*.hnsw"))) == 1


def _damage(snapshot: Path, damage: str) -> None:
    content = bytearray(snapshot.read_bytes())
    match damage:
        case "deleted":
            shutil.rmtree(snapshot.parent.parent)
        case "cut":
            snapshot.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 2] ^= 1
            snapshot.write_bytes(content)
        case "garbage":
            snapshot.write_bytes(bytes(len(content)))
        case "manifest":
            (snapshot.parent / "manifest.json").write_text("{}")


@pytest.mark.parametrize(("before", "after"), [("fake", "fake:lookup"), ("fake", ""), ("", "fake")])
async def test_a_collection_keeps_its_sparse_encoder_or_that_it_has_none(
    tmp_path: Path, before: str, after: str
) -> None:
    async with serving(fakes(tmp_path, sparse=before)) as service:
        await service.ingest(*documents(3))
        await service.client.post("/collections", json={"name": "own", "sparse": "fake"})
        await service.ingest(*documents(2), collection="own")
    async with serving(fakes(tmp_path, sparse=after), ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        told = problem(await service.client.post("/search", json={"query": "x"}), 409, "encoder-mismatch")
        assert (f"WINNOW_SPARSE={before}" if before else "without WINNOW_SPARSE") in told["detail"]
        assert "drop" in told["detail"]
        assert sorted(await service.found("topic", collection="own")) == ["d0", "d1"]
    async with serving(fakes(tmp_path, sparse=before)) as service:
        assert sorted(await service.found("topic")) == ["d0", "d1", "d2"]


async def test_a_sparse_encoder_is_chosen_for_each_collection(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        made = {}
        for name, given in {"usual": {}, "own": {"sparse": "fake:lookup"}, "none": {"sparse": ""}}.items():
            answer = await service.client.post("/collections", json={"name": name, **given})
            assert answer.status_code == 201
            made[name] = body(answer)
            await service.ingest(*documents(2), collection=name)
        assert {name: each["sparse"] for name, each in made.items()} == {
            "usual": "fake", "own": "fake:lookup", "none": None,
        }  # fmt: skip
        marks = [made[name]["sparse_fingerprint"] for name in ("usual", "own", "none")]
        assert marks[2] is None
        assert len({*marks, made["usual"]["fingerprint"]}) == 4
        shown = {
            each["name"]: each["sparse_chunks"]
            for each in body(await service.client.get("/collections"))["collections"]
        }
        assert shown == {"default": 0, "usual": 2, "own": 2, "none": 0}


async def test_a_sparse_encoder_that_can_not_be_opened_is_refused(service: Service) -> None:
    answer = await service.client.post("/collections", json={"name": "x", "sparse": "no-such-model"})
    told = problem(answer, 422, "invalid")
    assert "no sparse encoder 'no-such-model'" in told["detail"]


async def test_what_a_dropped_collection_held_in_memory_is_let_go_of_at_once(tmp_path: Path) -> None:
    """And not when old garbage is next looked for, which may be hours later: it may be gigabytes."""
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await service.client.post("/collections", json={"name": "large"})
        await service.ingest(*documents(3), collection="large")
        await service.found("topic 1", collection="large")
        indexes = service.engine.collections.shelf("large").indexes
        assert indexes.sparse
        held = [weakref.ref(view.index) for view in (indexes.dense, indexes.lexical, indexes.sparse)]
        del indexes
        gc.collect()
        gc.disable()
        try:
            await service.client.delete("/collections/large")
            await until(lambda: not any(index() for index in held))
        finally:
            gc.enable()
