"""A collection is made ready for other models in the background, switched to them, and back, and nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from time import monotonic
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from app.errors import Unavailable
from app.service import lessons
from app.service.ingest import Ingest
from app.settings import Settings
from app.stores.keys import KeyFile
from tests.app.serving import (
    PATIENCE,
    Json,
    Service,
    body,
    documents,
    fakes,
    held_up,
    nothing_embedded,
    pointers,
    problem,
    serving,
    until,
)

AT, STANDBY = "/collections/default", "default~standby"
LINES = "application/x-ndjson"

SHORT = {"chunk_tokens": 16, "overlap_tokens": 0}
LONG = " ".join(f"w{n}" for n in range(20))
"""A title that leaves no room in chunks that are so short."""


async def begin(service: Service, **asked: object) -> Json:
    answer = await service.client.post(f"{AT}/standby", json=asked)
    assert answer.status_code == 201, answer.text
    made: Json = body(answer)
    return made


async def caught_up(service: Service, but: int = 0) -> None:
    """Wait until the standby has all, or all but so much."""
    deadline = monotonic() + PATIENCE
    while (told := body(await service.client.get(AT))["standby"])["behind"] + told["pending"] > but:
        assert monotonic() < deadline, f"it never caught up: {told}"
        await asyncio.sleep(0.02)


async def told_of_standby(service: Service, **wanted: int) -> None:
    """Wait until as much is told of the standby."""
    deadline = monotonic() + PATIENCE
    while not wanted.items() <= (told := body(await service.client.get(AT))["standby"]).items():
        assert monotonic() < deadline, f"it never came to {wanted}: {told}"
        await asyncio.sleep(0.02)


async def refused(service: Service) -> str:
    """Why the standby is not switched to."""
    detail: str = problem(await service.client.post(f"{AT}/switch", json={}), 409, "conflict")["detail"]
    return detail


async def switch(service: Service, **asked: object) -> Json:
    answer = await service.client.post(f"{AT}/switch", json=asked)
    assert answer.status_code == 200, answer.text
    told: Json = body(answer)
    return told


async def held(service: Service, collection: str) -> dict[str, Json]:
    """What searches find there."""
    found = await service.search("topic word", collection=collection, top_k=100, rerank=False)
    return {hit["document_id"]: hit for hit in found["hits"]}


async def test_a_standby_takes_over_what_there_is_and_what_comes_and_goes_meanwhile(
    service: Service,
) -> None:
    await service.ingest(*documents(40, "topic word"))
    made = await begin(service, encoder="fake:32", recipe={"chunk_tokens": 64})
    assert (made["name"], made["follows"], made["dimensions"]) == (STANDBY, "default", 32)
    assert made["recipe"]["chunk_tokens"] == 64
    await service.ingest({"id": "new", "text": "topic word of late"}, {"id": "d1", "text": "topic word anew"})
    await service.ingest({**documents(3, "topic word")[2], "metadata": {"colour": "red"}})
    await service.client.request("DELETE", "/documents/d0")
    await caught_up(service)
    served, standby = await held(service, "default"), await held(service, STANDBY)
    assert set(served) == set(standby) == {"new", *(f"d{n}" for n in range(1, 40))}
    for name, hit in served.items():
        assert (hit["text"], hit["metadata"]) == (standby[name]["text"], standby[name]["metadata"])
    assert standby["d2"]["metadata"] == {"colour": "red"}
    listed = body(await service.client.get("/collections"))["collections"]
    assert [(each["name"], each["follows"]) for each in listed] == [("default", None), (STANDBY, "default")]


async def test_a_switch_puts_the_standby_in_its_place_and_a_second_one_takes_it_back(service: Service) -> None:
    await service.ingest(*documents(20, "topic word"))
    await begin(service, encoder="fake:32")
    await caught_up(service)
    for encoder, other in (("fake:32", "fake"), ("fake", "fake:32")):
        told = await switch(service)
        assert (told["name"], told["encoder"], told["documents"]) == ("default", encoder, 20)
        assert (await service.search("topic word"))["models"]["encoder"].startswith(encoder)
        assert body(await service.client.get(f"/collections/{STANDBY}"))["encoder"] == other
        await service.ingest({"id": f"with {encoder}", "text": "topic word with other models"})
        await service.client.request("DELETE", f"/documents/d{len(encoder)}")
        await caught_up(service)
        assert set(await held(service, "default")) == set(await held(service, STANDBY))
    assert {"with fake:32", "with fake"} <= set(await held(service, "default"))


async def test_after_a_switch_jobs_dates_and_feedback_are_where_they_were(service: Service) -> None:
    job = (await service.ingest(*documents(5, "topic word")))["job"]
    dated = body(await service.client.get("/documents/d1"))["created_at"]
    said = {"query": "topic", "document": "d1", "relevant": True}
    assert (await service.client.post("/feedback", json=said)).status_code == 200
    await begin(service, encoder="fake:32")
    await caught_up(service)
    await switch(service)
    told = body(await service.client.get(f"/jobs/{job}"))
    assert (told["collection"], told["state"], told["documents"], told["searchable"]) == ("default", "done", 5, 5)
    assert body(await service.client.get("/documents/d1"))["created_at"] == dated
    assert body(await service.client.get("/feedback"))["judged"] == 1
    assert (await service.client.request("DELETE", f"{AT}/standby")).status_code == 204
    assert body(await service.client.get(f"/jobs/{job}"))["state"] == "done"
    assert body(await service.client.get(AT))["standby"] is None


async def test_after_a_switch_files_that_could_not_be_read_are_still_known(service: Service) -> None:
    broken = b"%PDF-1.7 no more"

    async def send() -> None:
        sent = await service.client.post("/ingest/files", files={"files": ("broken.pdf", broken)})
        assert body(sent)["files"][0]["status"] == "failed", sent.text

    await begin(service)
    for _ in range(2):
        await send()
        await switch(service)
        asked = {"files": [{"path": "broken.pdf", "sha256": hashlib.sha256(broken).hexdigest()}]}
        told = body(await service.client.post("/ingest/files/known", json=asked))
        assert [each["path"] for each in told["refused"]] == ["broken.pdf"]


async def test_what_comes_in_while_models_are_switched_is_in_the_collection_afterwards(service: Service) -> None:
    await service.ingest(*documents(30, "topic word"))
    await begin(service, encoder="fake:32")
    await caught_up(service)
    acknowledged: set[str] = set()
    ended = asyncio.Event()

    async def ingest(worker: int) -> None:
        count = 0
        while not ended.is_set():
            name = f"{worker}-{count}"
            given = {"documents": [{"id": name, "text": f"topic word {name}"}], "wait": bool(count % 2)}
            assert (await service.client.post("/ingest", json=given)).is_success
            acknowledged.add(name)
            count += 1

    async def search() -> None:
        while not ended.is_set():
            assert (await service.search("topic word"))["hits"]

    work = [asyncio.create_task(each) for each in (*(ingest(n) for n in range(3)), search())]
    for _ in range(4):
        await asyncio.sleep(0.2)
        await switch(service)
        await caught_up(service, but=100)
    ended.set()
    await asyncio.gather(*work)
    await caught_up(service)
    contents = body(await service.client.get(AT))
    assert contents["documents"] + contents["pending"] == 30 + len(acknowledged)
    assert len(acknowledged) > 10
    for name in acknowledged:
        assert (await service.client.get(f"/documents/{name}")).status_code == 200


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/ingest", {"json": {"documents": [{"id": "late", "text": "topic word"}]}}),
        ("/ingest", {"content": b'{"id": "late", "text": "topic word"}', "headers": {"content-type": LINES}}),
        ("/ingest/files", {"files": {"files": ("late.txt", b"topic word")}}),
    ],
    ids=["documents", "lines", "files"],
)
async def test_who_waits_for_documents_beyond_a_switch_is_told_of_the_collection_that_was_named(
    service: Service, path: str, sent: Json
) -> None:
    await service.ingest(*documents(3, "topic word"))
    await begin(service, encoder="fake:32")
    with held_up(Ingest, "settled"):
        waiting = asyncio.create_task(service.client.post(path, **sent))
        await until(lambda: service.sample("winnow_ingested_documents_total", status="created") == 4)
        await caught_up(service)
        await switch(service)
    told = (await waiting).text.splitlines()[-1]
    assert json.loads(told)["collection"] == "default"


@pytest.mark.parametrize("part", ["queries", "qrels", "pairs"])
async def test_an_export_of_feedback_breaks_off_rather_than_ends_where_a_switch_takes_the_rest_along(
    service: Service, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(lessons, "QUERIES", 2)
    await service.ingest(*documents(3, "topic word"))
    said = [{"query": f"topic {n}", "document": "d1", "relevant": True} for n in range(5)]
    assert (await service.client.post("/feedback", json=said)).status_code == 200
    await begin(service)
    await caught_up(service)
    shelf = service.engine.collections.shelf("default")
    pages = getattr(service.engine.lessons, part)(shelf, lessons.Choice())
    assert b"topic" in await anext(pages) or part == "qrels"
    await switch(service)
    with pytest.raises(Unavailable, match="switched to other models meanwhile"):
        _ = [page async for page in pages]
    problem(await service.client.get(f"/feedback/{part}", params={"collection": STANDBY}), 409, "conflict")


async def test_a_standby_that_is_far_behind_is_not_switched_to(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.standby.NEARLY", 5)
    monkeypatch.setattr("app.service.copier.MOST_WAITING", 0)
    await service.ingest(*documents(20, "topic word"))
    await begin(service, encoder="fake:32")
    told = problem(await service.client.post(f"{AT}/switch", json={}), 409, "conflict")
    assert "20 documents are still to be taken over" in told["detail"]
    assert (await service.search("topic word"))["models"]["encoder"] == "fake:64"


async def test_a_switch_that_takes_too_long_leaves_everything_as_it_was(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.standby.SWITCH_SECONDS", 0.2)
    monkeypatch.setattr("app.service.copier.MOST_WAITING", 0)
    await service.ingest(*documents(3, "topic word"))
    await begin(service, encoder="fake:32")
    problem(await service.client.post(f"{AT}/switch", json={}), 409, "conflict")
    await service.ingest({"id": "later", "text": "topic word"})
    assert body(await service.client.get(AT))["encoder"] == "fake"


async def test_documents_that_other_models_cannot_take_are_named_and_given_up_only_by_force(service: Service) -> None:
    await service.ingest({"id": "titled", "text": "topic word", "title": LONG}, *documents(3, "topic word"))
    await begin(service, encoder="fake:32", recipe=SHORT)
    await caught_up(service)
    assert body(await service.client.get(AT))["standby"]["failed"] == 1
    assert "'titled': A title is too long" in await refused(service)
    assert (await switch(service, force=True))["failed"] == 1
    assert set(await held(service, "default")) == {"d0", "d1", "d2"}
    await switch(service)
    assert set(await held(service, "default")) == {"titled", "d0", "d1", "d2"}


async def test_what_a_standby_cannot_take_stays_so_when_it_replaces_what_it_took(service: Service) -> None:
    """The version that goes when the new one is found makes the standby look at the document once more."""
    await service.ingest({"id": "titled", "text": "topic word of old"}, *documents(3, "topic word"))
    await begin(service, encoder="fake:32", recipe=SHORT)
    await caught_up(service)
    given = {"documents": [{"id": "titled", "text": "topic word", "title": LONG}], "wait": False}
    with nothing_embedded():
        answer = await service.client.post("/ingest", json=given)
        await told_of_standby(service, behind=0, failed=1)
    await service.finished(body(answer)["job"])
    await caught_up(service)
    assert body(await service.client.get(AT))["standby"]["failed"] == 1
    assert "'titled': A title is too long" in await refused(service)
    assert (await held(service, STANDBY))["titled"]["text"] == "topic word of old"
    assert (await held(service, "default"))["titled"]["title"] == LONG


async def test_what_a_standby_cannot_take_stays_so_when_only_metadata_change(service: Service) -> None:
    titled = {"id": "titled", "text": "topic word", "title": LONG}
    await service.ingest(titled, *documents(3, "topic word"))
    await begin(service, encoder="fake:32", recipe=SHORT)
    await caught_up(service)
    assert (await service.ingest({**titled, "metadata": {"colour": "red"}}))["documents"][0]["status"] == "updated"
    await caught_up(service)
    assert body(await service.client.get(AT))["standby"]["failed"] == 1
    assert "'titled': A title is too long" in await refused(service)


@pytest.mark.parametrize("change", [{}, {"metadata": {"colour": "red"}}], ids=["unchanged", "updated"])
async def test_what_was_done_without_is_refused_when_it_comes_again(service: Service, change: Json) -> None:
    titled = {"id": "titled", "text": "topic word", "title": LONG}
    await service.ingest(titled, *documents(3, "topic word"))
    await begin(service, encoder="fake:32", recipe=SHORT)
    await caught_up(service)
    await switch(service, force=True)
    answer = await service.client.post("/ingest", json={"documents": [{**titled, **change}]})
    problem(answer, 422, "invalid-documents")
    assert pointers(answer) == ["/documents/0/title"]
    shown = body(await service.client.get("/documents/titled"))
    assert (shown["state"], shown["chunks"]) == ("failed", [])
    assert (await service.ingest({**titled, "title": ""}))["documents"][0]["chunks"] == 1
    assert "titled" in await held(service, "default")


async def test_what_was_let_in_without_a_chunk_is_taken_in_anew_when_it_comes_again(service: Service) -> None:
    def empty(db: apsw.Connection) -> None:
        db.execute("DELETE FROM chunks")
        db.execute("UPDATE documents SET chunks = 0")

    (document,) = documents(1, "topic word")
    await service.ingest(document)
    await service.engine.collections._database.write(empty)
    (told,) = (await service.ingest(document))["documents"]
    assert told == {"id": "d0", "status": "replaced", "chunks": 1}
    assert set(await held(service, "default")) == {"d0"}


async def test_what_a_standby_cannot_take_is_missed_before_it_is_found_as_well(service: Service) -> None:
    await begin(service, encoder="fake:32", recipe=SHORT)
    given = {"documents": [{"id": "titled", "text": "topic word", "title": LONG}], "wait": False}
    with nothing_embedded():
        answer = await service.client.post("/ingest", json=given)
        await told_of_standby(service, behind=0, pending=0)
        assert "'titled': A title is too long" in await refused(service)
    await service.finished(body(answer)["job"])
    assert set(await held(service, "default")) == {"titled"}


async def test_what_a_standby_fails_to_take_while_a_switch_waits_is_not_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.copier.MOST_WAITING", 0)
    await service.ingest(*documents(30, "topic word"), {"id": "titled", "text": "topic word", "title": LONG})
    await begin(service, encoder="fake:32", recipe=SHORT)
    followed = service.engine.collections.shelf("default")
    switching = asyncio.create_task(refused(service))
    await until(lambda: switching.done() or not followed.intake.is_set())
    monkeypatch.undo()
    assert "'titled': A title is too long" in await switching
    assert "titled" in await held(service, "default")
    assert followed.intake.is_set()
    await caught_up(service)
    assert (await switch(service, force=True))["failed"] == 1


async def test_a_standby_is_given_nothing_and_has_no_standby_of_its_own(service: Service) -> None:
    problem(await service.client.post(f"{AT}/switch", json={}), 409, "conflict")
    problem(await service.client.request("DELETE", f"{AT}/standby"), 404, "not-found")
    await begin(service)
    problem(await service.client.post(f"{AT}/standby", json={}), 409, "conflict")
    problem(await service.client.post(f"/collections/{STANDBY}/standby", json={}), 409, "conflict")
    given = {"collection": STANDBY, "documents": [{"text": "topic"}]}
    told = problem(await service.client.post("/ingest", json=given), 409, "conflict")
    assert "ingest, delete and judge there" in told["detail"]
    problem(await service.client.request("DELETE", f"/documents/x?collection={STANDBY}"), 409, "conflict")
    problem(await service.client.post("/documents/delete", json={"collection": STANDBY, "ids": ["x"]}), 409, "conflict")
    said = {"query": "topic", "document": "x", "relevant": True, "collection": STANDBY}
    problem(await service.client.post("/feedback", json=said), 409, "conflict")


async def test_a_collection_takes_its_standby_along_when_it_is_dropped(service: Service) -> None:
    await service.client.post("/collections", json={"name": "books"})
    await service.ingest(*documents(3), collection="books")
    assert (await service.client.post("/collections/books/standby", json={"encoder": "fake:32"})).status_code == 201
    assert (await service.client.request("DELETE", "/collections/books")).status_code == 204
    listed = body(await service.client.get("/collections"))["collections"]
    assert [each["name"] for each in listed] == ["default"]


async def test_a_standby_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(60, "topic word"))
        await begin(service, encoder="fake:32")
    async with serving(fakes(tmp_path)) as service:
        await caught_up(service)
        assert set(await held(service, STANDBY)) == {f"d{n}" for n in range(60)}


async def test_a_standby_that_cannot_be_opened_is_a_warning_and_can_be_ended(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3, "topic word"))
        await begin(service, encoder="fake:32")
    with apsw.Connection(str(tmp_path / "winnow.db")) as db:
        db.execute("UPDATE collections SET encoder = '/nowhere' WHERE follows IS NOT NULL")
    db.close()
    async with serving(fakes(tmp_path)) as service:
        ready = await service.client.get("/readyz")
        assert ready.status_code == 200
        (warning,) = body(ready)["warnings"]
        assert warning.startswith(f"collection '{STANDBY}': ")
        assert len((await service.search("topic word"))["hits"]) == 3
        problem(await service.client.post(f"{AT}/switch", json={}), 503, "unavailable")
        assert (await service.client.request("DELETE", f"{AT}/standby")).status_code == 204
        assert body(await service.client.get("/readyz"))["warnings"] == []


async def test_who_has_no_key_is_not_told_which_standby_is_in_trouble(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await begin(service, encoder="fake:32")
    with apsw.Connection(str(tmp_path / "winnow.db")) as db:
        db.execute("UPDATE collections SET encoder = '/nowhere' WHERE follows IS NOT NULL")
    db.close()
    key = KeyFile(fakes(tmp_path).keys_file).create("a", ["admin"], [], None)[1]
    async with serving(fakes(tmp_path)) as service:
        (untold,) = body(await service.client.get("/readyz"))["warnings"]
        assert "default" not in untold
        (told,) = body(await service.client.get("/readyz", headers={"x-api-key": key}))["warnings"]
        assert STANDBY in told


async def test_whoever_sees_a_collection_sees_its_standby_and_nobody_else_does(tmp_path: Path) -> None:
    keys = KeyFile(fakes(tmp_path).keys_file)
    admin, mine, other = (
        {"x-api-key": keys.create(name, ["admin"], limits, None)[1]}
        for name, limits in (("a", []), ("b", ["default"]), ("c", ["books"]))
    )
    async with serving(fakes(tmp_path)) as service:
        service.client.headers.update(admin)
        await service.client.post("/collections", json={"name": "books"})
        service.client.headers.update(mine)
        await begin(service, encoder="fake:32")
        assert (await service.client.get(f"/collections/{STANDBY}")).status_code == 200
        service.client.headers.update(other)
        for method, path in (("GET", f"/collections/{STANDBY}"), ("DELETE", f"{AT}/standby"), ("POST", f"{AT}/switch")):
            problem(await service.client.request(method, path, json={}), 404, "not-found")


async def test_a_switch_outlives_restarts_until_the_settings_say_something_new(tmp_path: Path) -> None:
    def settings(**more: object) -> Settings:
        return fakes(tmp_path, **more)

    async with serving(settings()) as service:
        await service.ingest(*documents(5, "topic word"))
        await begin(service, encoder="fake:32")
        await caught_up(service)
        await switch(service)
    for more in ({}, {"encoder": "fake:32"}, {}):
        async with serving(settings(**more)) as service:
            assert (await service.search("topic word"))["models"]["encoder"] == "fake:32"
    async with serving(settings(encoder="fake:16"), ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        told = problem(await service.client.post("/search", json={"query": "topic"}), 409, "encoder-mismatch")
        assert "/collections/default/standby" in told["detail"]


async def test_a_collection_that_cannot_be_opened_gives_its_place_to_its_standby(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5, "topic word"))
        await begin(service, encoder="fake:32")
        await caught_up(service)
    settings = fakes(tmp_path, encoder="fake:32")
    async with serving(settings, ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        problem(await service.client.post("/search", json={"query": "topic"}), 409, "encoder-mismatch")
        assert (await switch(service))["encoder"] == "fake:32"
        assert len(await held(service, "default")) == 5
        await service.ingest({"id": "new", "text": "topic word new"})
        ready = body(await service.client.get("/readyz"))
        assert ready["warnings"] == [f"collection '{STANDBY}': Collection '{STANDBY}' is closed until the next start."]
        problem(await service.client.post(f"{AT}/switch", json={}), 503, "unavailable")
    async with serving(settings) as service:
        await caught_up(service)
        assert "new" in await held(service, STANDBY)
        assert (await switch(service))["encoder"] == "fake"
        assert len(await held(service, "default")) == 6


async def test_whoever_asks_a_collection_that_cannot_be_opened_hears_of_its_standby(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(3, "topic word"))
        await begin(service, encoder="fake:32")
    async with serving(fakes(tmp_path, encoder="fake:16"), ready=False) as service:
        await until(lambda: not service.engine.readiness.starting)
        told = problem(await service.client.post("/search", json={"query": "topic"}), 409, "encoder-mismatch")["detail"]
        assert told.endswith("Or let its standby, which is open, take its place (POST /collections/default/switch).")
        assert body(await service.client.get("/readyz"))["reasons"] == [f"collection 'default': {told}"]
        assert (await service.client.request("DELETE", f"{AT}/standby")).status_code == 204
        told = body(await service.client.post("/search", json={"query": "topic"}))["detail"]
        assert "standby, which is open" not in told


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.sampled_from(["red", "green"]), st.integers(0, 1)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("switch")),
        st.tuples(st.just("wait")),
    ),
    max_size=25,
)


@examples(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS)
async def test_whatever_happens_both_have_the_same_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, acts: list[Any]
) -> None:
    expected: dict[str, tuple[str, Json]] = {}
    async with serving(fakes(tmp_path_factory.mktemp("standby"))) as service:
        await begin(service, encoder="fake:32")
        for act in acts:
            if act[0] == "put":
                _, name, colour, metadata = act
                document: Json = {"id": f"d{name}", "text": f"topic word {colour}", "metadata": {"m": metadata}}
                await service.client.post("/ingest", json={"documents": [document], "wait": False})
                expected[f"d{name}"] = (document["text"], document["metadata"])
            elif act[0] == "delete":
                await service.client.post("/documents/delete", json={"ids": [f"d{act[1]}"]})
                expected.pop(f"d{act[1]}", None)
            elif act[0] == "switch":
                await switch(service)
            else:
                await caught_up(service)
        await caught_up(service)
        await switch(service)  # which waits for what is pending on both sides
        await switch(service)
        for collection in ("default", STANDBY):
            found = await held(service, collection)
            assert {name: (hit["text"], hit["metadata"]) for name, hit in found.items()} == expected
