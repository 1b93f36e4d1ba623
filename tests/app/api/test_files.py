"""Files over HTTP: a report of each, pages in hits, nothing done twice, and limits kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from app.api.schemas import DocumentReply, FilesReply
from loadtest.process import Process
from tests.app.api.test_load import never_still
from tests.app.files.made import Grid, Text, encrypted_pdf, pdf, sheet, slides, word
from tests.app.files.missing import missing
from tests.app.serving import Json, Service, body, fakes, nothing_embedded, pointers, problem, serving

PROSE = "Boats lie at the quay and wait for the water to come back.\n" * 12

SEA = pdf(
    [Text("Tides", 20), Text(PROSE), Text("Zebras are rare at sea.")],
    [Text("Ports", 20), Text(PROSE), Grid([["Port", "Height"], ["Brest", "6 m"], ["Granville", "13 m"]])],
    [Text("Code", 20), Text(PROSE), Text("def undertow(x):\n    return x + 1", 9, "F2"), Text("Okapis never swim.")],
    title="Of the sea",
)


async def send(service: Service, files: dict[str, bytes], **fields: str) -> list[Json]:
    answer = await service.client.post("/ingest/files", files=form(files), data=fields)
    assert answer.status_code == 200, answer.text
    assert FilesReply.model_validate(body(answer), strict=True).searchable
    return [{name: value for name, value in file.items() if value is not None} for file in body(answer)["files"]]


def form(files: dict[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", each) for each in files.items()]


async def test_a_pdf_is_found_with_its_pages_and_headings(service: Service) -> None:
    (told,) = await send(service, {"papers/sea.pdf": SEA})
    assert told == {"path": "papers/sea.pdf", "id": "papers/sea.pdf", "status": "created", "chunks": 3, "pages": 3}
    for question, page, heading in (
        ("zebras rare", 1, "Tides"),
        ("Granville height", 2, "Ports"),
        ("okapis swim", 3, "Code"),
    ):
        hit = (await service.search(question))["hits"][0]
        assert (hit["document_id"], hit["page"], hit["heading"]) == ("papers/sea.pdf", page, heading)
        assert hit["title"] == "Of the sea"
    assert "| Granville | 13 m |" in (await service.search("Granville"))["hits"][0]["text"]
    assert "def undertow(x):\n    return x + 1" in (await service.search("undertow"))["hits"][0]["text"]


async def test_a_document_tells_of_its_file_pages_and_chunks(service: Service) -> None:
    await send(service, {"sea.pdf": SEA}, metadata='{"team": "coast"}')
    stored = body(await service.client.get("/documents/sea.pdf"))
    assert DocumentReply.model_validate(stored, strict=True).format == "markdown"
    assert [stored["text"][start:][:3] for start in stored["pages"]] == ["# T", "# P", "# C"]
    assert [(chunk["page"], chunk["heading"]) for chunk in stored["chunks"]] == [
        (1, "Tides"),
        (2, "Ports"),
        (3, "Code"),
    ]
    assert stored["metadata"]["team"] == "coast"
    told = stored["metadata"]["file"]
    assert (told["path"], told["kind"], told["pages"]) == ("sea.pdf", "pdf", 3)
    assert told["sha256"] == hashlib.sha256(SEA).hexdigest()
    assert await service.found("zebras", filter={"file.kind": "pdf", "file.pages": {"$gte": 3}}) != []
    assert await service.found("zebras", filter={"file.kind": "docx"}) == []


async def test_what_can_not_be_read_is_named_and_the_rest_goes_on(service: Service) -> None:
    told = await send(
        service,
        {
            "locked.pdf": encrypted_pdf(),
            "none.txt": b"",
            "photo.jpg": b"\xff\xd8",
            "fake.docx": SEA,
            "good.txt": b"fine",
        },
    )
    assert [file["status"] for file in told] == ["failed"] * 4 + ["created"]
    reasons = [file["reason"] for file in told[:4]]
    assert reasons[0] == "has a password: save it without one"
    assert reasons[1] == "is empty"
    assert "is of no kind that can be read" in reasons[2]
    assert reasons[3] == "is not a .docx file, though its name says so: it looks like a PDF"
    assert await service.found("fine") == ["good.txt"]
    assert service.sample("winnow_files_total", kind="pdf", outcome="failed") == 1
    assert service.sample("winnow_files_total", kind="other", outcome="failed") == 1
    assert service.sample("winnow_files_total", kind="text", outcome="created") == 1


async def test_a_file_that_did_not_change_is_neither_converted_nor_embedded_again(service: Service) -> None:
    files = {"sea.pdf": SEA, "notes.md": b"# Notes\n\nSome words."}
    await send(service, files)
    converted, embedded = conversions(service), service.encoded()
    assert [file["status"] for file in await send(service, files)] == ["unchanged"] * 2
    assert [file["status"] for file in await send(service, files, metadata='{"year": 2020}')] == ["updated"] * 2
    assert (conversions(service), service.encoded()) == (converted, embedded)
    assert set(await service.found("words", filter={"year": 2020})) == set(files)
    files["notes.md"] += b" And more."
    assert [file["status"] for file in await send(service, files)] == ["updated", "replaced"]
    assert (await service.search("and more"))["hits"][0]["text"].endswith("And more.")


def conversions(service: Service) -> float:
    return service.sample("winnow_stage_seconds_count", pipeline="ingest", stage="convert", part="compute")


async def known(service: Service, path: str, sha256: str) -> list[str]:
    asked = {"files": [{"path": path, "sha256": sha256}]}
    found: list[str] = body(await service.client.post("/ingest/files/known", json=asked))["known"]
    return found


async def test_the_service_says_which_files_it_has(service: Service) -> None:
    await send(service, {"sea.pdf": SEA})
    same, other = hashlib.sha256(SEA).hexdigest(), "0" * 64
    assert await known(service, "sea.pdf", same) == ["sea.pdf"]
    assert await known(service, "sea.pdf", other) == await known(service, "elsewhere.pdf", same) == []
    await service.ingest({"id": "sea.pdf", "text": "put in its place by hand"})
    assert await known(service, "sea.pdf", same) == []


async def test_a_file_is_not_known_any_more_once_another_text_waits_in_its_place(service: Service) -> None:
    await send(service, {"sea.pdf": SEA})
    by_hand = {"documents": [{"id": "sea.pdf", "text": "put in its place by hand"}], "wait": False}
    with nothing_embedded():
        await service.client.post("/ingest", json=by_hand)
        assert await known(service, "sea.pdf", hashlib.sha256(SEA).hexdigest()) == []


async def test_a_file_can_be_sent_again_while_what_was_put_in_its_place_waits(service: Service) -> None:
    await send(service, {"a.txt": b"the tides of old"})
    by_hand = {"documents": [{"id": "a.txt", "text": "put in its place by hand"}], "wait": False}
    with nothing_embedded():
        await service.client.post("/ingest", json=by_hand)
        answer = await service.client.post(
            "/ingest/files", files=form({"a.txt": b"the tides of old"}), data={"wait": "false"}
        )
        assert answer.status_code == 202, answer.text
        assert body(answer)["files"][0]["status"] == "unchanged"
    await service.finished(body(answer)["job"])
    assert (await service.search("tides"))["hits"][0]["text"] == "the tides of old"
    assert body(await service.client.get("/documents/a.txt"))["text"] == "the tides of old"


async def test_a_file_sent_again_is_not_taken_for_one_that_failed_in_its_place(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, encoder="fake:frail")) as service:
        await send(service, {"a.txt": b"the tides of old"})
        answer = await service.client.post("/ingest/files", files=form({"a.txt": b"it fails"}), data={"wait": "false"})
        assert (await service.finished(body(answer)["job"]))["state"] == "failed"
        (told,) = await send(service, {"a.txt": b"the tides of old"})
        assert told["status"] == "unchanged"
        shown = body(await service.client.get("/documents/a.txt"))
        assert (shown["text"], shown["state"]) == ("the tides of old", "live")


async def test_a_jsonl_file_becomes_a_document_a_line(service: Service) -> None:
    lines = (
        b'{"id": "a", "text": "first line"}\nno json\n\n'
        b'{"id": "b", "text": "second line", "metadata": {"n": 2}}\n{"id": "c"}\n'
    )
    (told,) = await send(service, {"facts.jsonl": lines}, metadata='{"team": "coast", "n": 1}')
    assert told["status"] == "created"
    assert told["documents"] == {"created": 2}
    assert told["refused"] == 2
    assert told["reason"].startswith("line 2: The line is not valid JSON")
    assert "line 5: /text Field required" in told["reason"]
    assert set(await service.found("line", filter={"team": "coast", "n": 1})) == {"a"}
    assert set(await service.found("line", filter={"n": 2})) == {"b"}
    (told,) = await send(service, {"bad.jsonl": b"no json\n"})
    assert told["status"] == "failed"


async def test_lines_of_a_jsonl_file_that_can_not_be_embedded_are_told_of_their_file(tmp_path: Path) -> None:
    files = {
        "a.jsonl": b'{"id": "a", "text": "first line"}\n{"id": "b", "text": "it fails"}\n5\n',
        "b.jsonl": b'{"id": "c", "text": "second line"}\n',
        "c.jsonl": b'{"id": "d", "text": "it fails"}\n',
        "d.jsonl": b"5\n",
    }
    async with serving(fakes(tmp_path, encoder="fake:frail")) as service:
        some, none, every, _ = await send(service, files)
    assert (some["status"], some["documents"]) == ("created", {"created": 2, "failed": 1})
    assert "line 3" in some["reason"]
    assert "document 'b' can't be embedded: " in some["reason"]
    assert (none["status"], none["documents"], "reason" in none) == ("created", {"created": 1}, False)
    assert (every["status"], every["documents"]) == ("failed", {"created": 1, "failed": 1})


async def test_a_jsonl_file_of_nothing_but_bad_lines_holds_nobody_up(service: Service) -> None:
    async with never_still():
        (told,) = await send(service, {"junk.jsonl": b"1\n" * 50_000})
    assert told["reason"].count("line ") == 20


async def test_metadata_of_an_upload_and_of_its_lines_together_keep_to_the_limit(tmp_path: Path) -> None:
    line = orjson.dumps({"id": "a", "text": "a line", "metadata": {"own": "x" * 60}})
    async with serving(fakes(tmp_path, max_metadata_bytes=100)) as service:
        (told,) = await send(service, {"a.jsonl": line}, metadata=orjson.dumps({"shared": "y" * 60}).decode())
        assert "/metadata" in told["reason"]
        (told,) = await send(service, {"a.jsonl": line}, metadata='{"team": 1}')
        assert told["status"] == "created"


async def test_rows_of_a_long_sheet_are_found_with_their_header(service: Service) -> None:
    rows: list[list[object]] = [["Harbour", "Depth"], *([f"harbour{i}", i] for i in range(400))]
    (told,) = await send(service, {"depths.xlsx": sheet(Soundings=rows)})
    assert told["chunks"] > 5
    hit = (await service.search("harbour377"))["hits"][0]
    assert "| harbour377 | 377 |" in hit["text"]
    assert hit["heading"] == "Soundings"
    assert service.engine.collections.shelf("default").collection.recipe.chunk_tokens == 256


async def test_the_answer_in_the_last_tenth_of_a_long_document_is_found(service: Service) -> None:
    chapters = [(f"Chapter {i}", f"It tells of matter{i}. " * 60) for i in range(20)]
    chapters[-1] = ("Last", "It tells of matter. " * 40 + "The wombat sleeps in the lighthouse.")
    await send(service, {"book.docx": word(chapters)})
    hit = (await service.search("where does the wombat sleep"))["hits"][0]
    assert (hit["page"], hit["heading"]) == (20, "Last")
    assert "wombat sleeps in the lighthouse" in hit["text"]


async def test_markdown_sent_as_json_is_cut_along_its_structure(service: Service) -> None:
    text = f"# Sea\n\n{PROSE}\n\n## Salt\n\n{PROSE * 3}"
    await service.ingest({"id": "m", "text": text, "format": "markdown"}, {"id": "p", "text": text})
    headings = {hit["document_id"]: hit.get("heading") for hit in (await service.search("boats quay"))["hits"]}
    assert headings["m"] in ("Sea", "Sea \u203a Salt")
    assert headings["p"] is None
    assert all("page" not in hit for hit in (await service.search("boats quay"))["hits"])
    told = await service.ingest({"id": "p", "text": text, "format": "markdown"})
    assert told["documents"][0]["status"] == "replaced"


async def test_an_upload_may_answer_before_its_files_can_be_found(service: Service) -> None:
    answer = await service.client.post("/ingest/files", files=form({"a.txt": b"early"}), data={"wait": "false"})
    assert answer.status_code == 202
    assert not body(answer)["searchable"]
    assert (await service.finished(body(answer)["job"]))["state"] == "done"
    assert await service.found("early") == ["a.txt"]


async def told_of(service: Service, files: dict[str, bytes], **more: str) -> dict[str, str]:
    """What the service says of files that are not sent to it: those that it could not read."""
    hashes = [{"path": path, "sha256": hashlib.sha256(content).hexdigest()} for path, content in files.items()]
    answer = await service.client.post("/ingest/files/known", json={"files": hashes, **more})
    return {each["path"]: each["reason"] for each in body(answer)["refused"]}


async def test_what_could_not_be_read_is_remembered_by_what_it_holds(service: Service) -> None:
    files = {"locked.pdf": encrypted_pdf(), "none.txt": b"", "good.txt": b"fine", "fake.docx": SEA}
    assert await told_of(service, files) == {}
    await send(service, files)
    reasons = await told_of(service, files)
    assert set(reasons) == {"locked.pdf", "none.txt", "fake.docx"}
    assert reasons["locked.pdf"] == "has a password: save it without one"
    elsewhere = {"copy.pdf": encrypted_pdf(), "sea.pdf": SEA, "none.md": b"", "changed.pdf": encrypted_pdf() + b" "}
    assert set(await told_of(service, elsewhere)) == {"copy.pdf"}, "read as another kind, or changed, it may be fine"


async def test_what_could_not_be_read_for_one_collection_is_not_told_of_for_another(service: Service) -> None:
    await service.client.post("/collections", json={"name": "own"})
    files = {"locked.pdf": encrypted_pdf()}
    await send(service, files)
    assert await told_of(service, files, collection="own") == {}
    assert set(await told_of(service, files)) == {"locked.pdf"}
    assert (await service.client.delete("/collections/default")).status_code == 204
    await service.client.post("/collections", json={"name": "default"})
    assert await told_of(service, files) == {}, "a collection of the same name is another one"


async def test_what_is_sent_all_the_same_is_tried_again(service: Service) -> None:
    await send(service, {"locked.pdf": encrypted_pdf()})
    converted = conversions(service)
    await send(service, {"locked.pdf": encrypted_pdf()})
    assert conversions(service) == converted + 1


async def test_what_can_be_read_after_all_is_no_longer_refused(service: Service) -> None:
    shelf = service.engine.collections.shelf("default")
    attempt = service.engine.files.attempt(shelf, "pdf", hashlib.sha256(SEA).hexdigest())
    await service.engine.files.remember(attempt, "had a bad day")
    assert await told_of(service, {"sea.pdf": SEA}) == {"sea.pdf": "had a bad day"}
    await send(service, {"sea.pdf": SEA})
    assert await told_of(service, {"another.pdf": SEA}) == {}


async def test_a_refusal_outlives_the_service_and_ends_with_the_limits_that_it_ran_into(tmp_path: Path) -> None:
    pages: list[list[Text | Grid]] = [[Text(PROSE), Grid([["a", "b"]] * 30)]] * 300
    files = {"slow.pdf": pdf(*pages), "long.txt": b"x" * 101}
    limits = {"file_seconds": 1, "max_file_bytes": 10**7, "max_text_chars": 100}
    async with serving(fakes(tmp_path, **limits)) as service:
        await send(service, files)
    async with serving(fakes(tmp_path, **limits)) as service:
        reasons = await told_of(service, files)
        assert reasons["slow.pdf"].startswith("took longer than 1 seconds")
        assert reasons["long.txt"].startswith("holds 101 characters")
    for wider in ({"file_seconds": 2}, {"max_text_chars": 200}, {"file_memory_bytes": 2**31}):
        async with serving(fakes(tmp_path, **limits | wider)) as service:
            assert await told_of(service, files) == {}


@pytest.mark.parametrize(
    ("files", "fields", "pointer"),
    [
        ({"a.txt": b"x"}, {"metadata": "[1]"}, "/metadata"),
        ({"a.txt": b"x"}, {"metadata": "{"}, "/metadata"),
        ({"a.txt": b"x"}, {"metadata": '{"file": 1}'}, "/metadata/file"),
        ({"a.txt": b"x"}, {"wait": "maybe"}, "/wait"),
        ({"a.txt": b"x"}, {"colour": "red"}, "/colour"),
        ({"a.txt": b"x", "..": b"x"}, {}, "/files/1"),
        ({" a.txt": b"x"}, {}, "/files/0"),
        ({"a" * 600 + ".txt": b"x"}, {}, "/files/0"),
    ],
)
async def test_a_bad_form_takes_nothing_in_and_says_where(
    service: Service, files: dict[str, bytes], fields: dict[str, str], pointer: str
) -> None:
    answer = await service.client.post("/ingest/files", files=form(files), data=fields)
    assert answer.status_code == 422, answer.text
    assert pointers(answer) == [pointer]
    assert body(await service.client.get("/collections/default"))["documents"] == 0


async def test_two_files_of_one_name_are_refused(service: Service) -> None:
    answer = await service.client.post("/ingest/files", files=[*form({"a.txt": b"x"}), *form({"a.txt": b"y"})])
    problem(answer, 422, "invalid")
    assert pointers(answer) == ["/files/1"]


async def test_what_is_no_form_or_breaks_off_is_refused(service: Service) -> None:
    problem(await service.client.post("/ingest/files", json={}), 415, "unsupported-type")
    whole = httpx.Request("POST", "http://x", files=form({"a.txt": b"one", "b.txt": b"two"})).read()
    boundary = whole.split(b"\r\n", 1)[0][2:].decode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    for content in (whole[: len(whole) // 2], whole[:-10], b"", b"nonsense"):
        answer = await service.client.post("/ingest/files", content=content, headers=headers)
        problem(answer, 400, "malformed")
    problem(
        await service.client.post("/ingest/files", content=whole, headers={"content-type": "multipart/form-data"}),
        400,
        "malformed",
    )


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ('filename="a%22b.md"', "a%22b.md"),
        ('filename="a\\"b.md"', 'a"b.md'),
        ('filename="näher;.md"', "näher;.md"),
        ('filename="x"\r\nWinnow-Path: sub/a%22%5Cb%2522.md', 'sub/a"\\b%22.md'),
        ('filename="x"\r\nwinnow-path: näher.md', "näher.md"),
    ],
    ids=["as browsers say it", "as curl says it", "as it is", "in a header", "in a header as it is"],
)
async def test_a_name_is_taken_as_the_form_or_a_header_says_it(service: Service, said: str, name: str) -> None:
    answer = await service.client.post("/ingest/files", content=part(said), headers=PART_OF)
    assert [file["id"] for file in body(answer)["files"]] == [name]


@pytest.mark.parametrize("said", ["%FF.md", "a%0Ab.md", "", "%20a.md"])
async def test_a_name_in_a_header_is_checked_as_any_other(service: Service, said: str) -> None:
    answer = await service.client.post(
        "/ingest/files", content=part(f'filename="x.md"\r\nWinnow-Path: {said}'), headers=PART_OF
    )
    problem(answer, 422, "invalid")
    assert set(pointers(answer)) == {"/files/0"}


PART_OF = {"content-type": "multipart/form-data; boundary=x"}


def part(said: str) -> bytes:
    """A form with one file, as it goes over the wire."""
    return f'--x\r\nContent-Disposition: form-data; name="files"; {said}\r\n\r\n# Text\r\n--x--\r\n'.encode()


async def test_limits_of_files_are_kept(tmp_path: Path) -> None:
    limits = {"max_files": 2, "max_file_bytes": 100, "max_upload_bytes": 1024, "max_text_chars": 50}
    async with serving(fakes(tmp_path, **limits)) as service:
        three = form({f"{i}.txt": b"x" for i in range(3)})
        problem(await service.client.post("/ingest/files", files=three), 400, "malformed")
        problem(await service.client.post("/ingest/files", files=form({"a.txt": b"x" * 2000})), 413, "too-large")
        long, wide = await send(service, {"a.txt": b"x" * 101, "b.txt": b"x" * 51})
        assert long["reason"].startswith("is 101 bytes long; at most 100 are allowed")
        assert wide["reason"] == "holds 51 characters; at most 50 are allowed: split it"


async def test_more_uploads_than_allowed_are_refused_before_they_are_read(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_uploads=1)) as service:
        whole = httpx.Request("POST", "http://x", files=form({"a.txt": b"slow"}))
        begun, goes_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            begun.set()
            await goes_on.wait()
            yield whole.read()

        headers = {"content-type": whole.headers["content-type"]}
        first = asyncio.create_task(service.client.post("/ingest/files", content=slowly(), headers=headers))
        await begun.wait()
        refused = await service.client.post("/ingest/files", files=form({"b.txt": b"x"}))
        problem(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        goes_on.set()
        assert (await first).status_code == 200


async def test_a_conversion_that_takes_too_long_or_too_much_is_named(tmp_path: Path) -> None:
    pages: list[list[Text | Grid]] = [[Text(PROSE), Grid([["a", "b"]] * 30)]] * 300
    async with serving(fakes(tmp_path, file_seconds=1)) as service:
        slow, good = await send(service, {"slow.pdf": pdf(*pages), "good.txt": b"fine"})
        assert slow["reason"].startswith("took longer than 1 seconds")
        assert good["status"] == "created"


async def test_a_title_that_is_too_long_for_small_chunks_is_left_out(service: Service) -> None:
    recipe = {"chunk_tokens": 16, "overlap_tokens": 0}
    await service.client.post("/collections", json={"name": "small", "recipe": recipe})
    (told,) = await send(service, {"a.md": f"# {'many words ' * 8}\n\nText of it.".encode()}, collection="small")
    assert told["status"] == "created"


@pytest.fixture
def without_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service where the extra is not installed; what reads slides has lost but a part of what it needs."""
    monkeypatch.setenv("PYTHONPATH", missing(tmp_path, "pdfplumber", "python-docx", "PIL"))
    with Process(tmp_path / "data", ENCODER="fake") as running:
        running.await_ready()
        yield running.client


def test_files_that_need_the_extra_are_named_with_it_and_the_rest_goes_on(without_extra: httpx.Client) -> None:
    files = {"sea.pdf": SEA, "a.txt": b"x", "b.docx": word(), "photo.jpg": b"x", "c.pptx": slides("one")}
    told = body(without_extra.post("/ingest/files", files=form(files)))["files"]
    assert [file["status"] for file in told] == ["failed", "created", "failed", "failed", "failed"]
    assert told[0]["reason"] == "can't be read without pdfplumber: pip install -c constraints.txt -e '.[files]'"
    assert told[2]["reason"] == "can't be read without python-docx: pip install -c constraints.txt -e '.[files]'"
    assert told[4]["reason"] == "can't be read without PIL: pip install -c constraints.txt -e '.[files]'"
    asked = {"files": [{"path": path, "sha256": hashlib.sha256(content).hexdigest()} for path, content in files.items()
                       if path != "photo.jpg"]}  # fmt: skip
    assert body(without_extra.post("/ingest/files/known", json=asked)) == {"known": ["a.txt"], "refused": []}


def test_where_everything_needs_the_extra_the_answer_is_an_error(without_extra: httpx.Client) -> None:
    answer = without_extra.post("/ingest/files", files=form({"sea.pdf": SEA, "more.pdf": SEA, "b.docx": word()}))
    assert problem(answer, 501, "not-installed")["detail"] == (
        "Files of these kinds can't be read here: docx, pdf. "
        "What reads them: pip install -c constraints.txt -e '.[files]'"
    )
