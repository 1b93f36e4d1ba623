from __future__ import annotations

import asyncio
import socket
import tracemalloc
from codecs import BOM_UTF8 as BOM
from collections.abc import AsyncIterator, Sequence
from http.client import HTTPResponse
from itertools import pairwise
from pathlib import Path
from time import process_time, sleep

import httpx
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.api import ndjson
from app.api.ndjson import _lines
from app.stores import jobs
from tests.app.serving import Json, Service, body, fakes, listening, pointers, problem, serving, until

NDJSON = {"content-type": "application/x-ndjson"}


async def post(service: Service, content: bytes | AsyncIterator[bytes], **query: str) -> httpx.Response:
    return await service.client.post("/ingest", content=content, headers=NDJSON, params=query)


def told(answer: httpx.Response) -> tuple[list[Json], Json]:
    """What the answer says of each line, and of all together."""
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    *lines, summary = [orjson.loads(line) for line in answer.text.splitlines()]
    return lines, summary


def lines(*documents: object) -> bytes:
    return b"".join(orjson.dumps(document) + b"\n" for document in documents)


async def pieces(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_each_line_is_answered_in_order_and_bad_ones_harm_no_other(service: Service) -> None:
    content = (
        lines({"id": "a", "text": "apple tree"}, {"text": "no id", "metadata": {"n": 1}})
        + b"not json\n\n  \n"
        + lines({"id": "b"}, {"id": "c", "text": ""}, {"id": "d", "text": "x", "colour": 1}, [1], "text")
        + b'{"id": "e", "text": "\\ud800"}\n{"id": "f", "text": "pear tree", "metadata": {"n": NaN}}\r\n'
        + b'{"id": "g", "text": "plum tree"}\r\n{"id": "h", "text": "last tree"}'
    )
    answer = await post(service, content)
    assert answer.status_code == 200
    results, summary = told(answer)
    assert [each["line"] for each in results] == [1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert {each["line"]: each["status"] for each in results if "status" in each} == dict.fromkeys(
        (1, 2, 13, 14), "created"
    )
    wrong = {
        each["line"]: [fault["pointer"] for fault in each.get("errors", [])] for each in results if "error" in each
    }
    assert (wrong[6], wrong[7], wrong[8]) == (["/text"], ["/text"], ["/colour"])
    assert "not valid JSON" in results[2]["error"]
    assert (summary["documents"], summary["refused"], summary["failed"], summary["searchable"]) == (4, 8, {}, True)
    assert sorted(await service.found("tree", candidates=3, top_k=3)) == ["a", "g", "h"]


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b" "])
async def test_a_body_without_a_line_is_refused(service: Service, content: bytes) -> None:
    problem(await post(service, content), 422, "invalid")


async def test_an_unknown_collection_is_not_found_before_the_body_is_read(service: Service) -> None:
    problem(await post(service, lines({"text": "x"}), collection="none"), 404, "not-found")


async def test_lines_go_to_the_collection_that_the_url_names(service: Service) -> None:
    await service.client.post("/collections", json={"name": "other"})
    _, summary = told(await post(service, lines({"id": "a", "text": "apple"}), collection="other"))
    assert summary["collection"] == "other"
    assert await service.found("apple") == []
    assert await service.found("apple", collection="other") == ["a"]


async def test_a_caller_that_does_not_wait_gets_a_job(service: Service) -> None:
    answer = await post(service, lines(*({"id": f"d{i}", "text": f"item {i}"} for i in range(150))), wait="false")
    assert answer.status_code == 202
    _, summary = told(answer)
    assert not summary["searchable"]
    assert (await service.finished(summary["job"]))["searchable"] == 150


async def test_only_bad_lines_are_told_and_there_is_no_job(service: Service) -> None:
    results, summary = told(await post(service, b"bad\nworse"))
    assert [each["line"] for each in results] == [1, 2]
    assert (summary["job"], summary["documents"], summary["refused"]) == (None, 0, 2)


async def test_a_title_too_long_to_chunk_is_told_on_its_line_only(service: Service) -> None:
    title = " ".join(f"t{i}" for i in range(200))
    content = lines({"id": "a", "text": "x"}, {"id": "b", "text": "x " * 300, "title": title}, {"id": "c", "text": "x"})
    results, summary = told(await post(service, content))
    assert [each.get("status") for each in results] == ["created", None, "created"]
    assert "title" in results[1]["error"]
    assert (summary["documents"], summary["refused"]) == (2, 1)


async def test_the_last_of_several_lines_with_one_id_wins(service: Service) -> None:
    content = lines(*({"id": "same", "text": f"version {i}"} for i in range(200)))
    results, summary = told(await post(service, content))
    assert [each["status"] for each in results] == ["created"] + ["replaced"] * 199
    assert summary["searchable"]
    assert [hit["text"] for hit in (await service.search("version"))["hits"]] == ["version 199"]


async def test_a_line_longer_than_allowed_is_named_and_its_neighbours_are_taken(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, max_line_bytes=2000)) as service:
        long = lines({"id": "long", "text": "x " * 50_000})
        fits = {"id": "fits", "text": "y" * (2000 - len(lines({"id": "fits", "text": ""})) + 1)}
        content = lines({"id": "a", "text": "before"}) + long + lines(fits, {"id": "b", "text": "after"}) + long.strip()
        for size in (100, 1999, 65_536):
            parts = [content[i : i + size] for i in range(0, len(content), size)]
            results, summary = told(await post(service, pieces(parts)))
            assert ["error" in each for each in results] == [False, True, False, False, True]
            assert "2000 bytes" in results[1]["error"]
            assert (summary["documents"], summary["refused"]) == (3, 2)
        assert sorted(await service.found("before after")) == ["a", "b", "fits"]


PARTS = st.sampled_from(
    [b"\n", b"\r\n", b"{}", b" ", b"\t", b"\xef\xbb\xbf", "é".encode(), b"\xff", b"\r", b"long" * 5]
)


@settings(max_examples=300)
@given(st.lists(PARTS | st.binary(max_size=6), max_size=20).map(b"".join), st.lists(st.integers(0, 60), max_size=12))
def test_lines_are_the_same_however_they_come(content: bytes, places: list[int]) -> None:
    edges = [0, *sorted(min(each, len(content)) for each in places), len(content)]

    async def found() -> list[tuple[int, bytes | None]]:
        parts = pieces([content[start:end] for start, end in pairwise(edges)])
        return [(line.number, line.content) async for line in _lines(parts, longest=12)]

    whole = enumerate(content.split(b"\n"), 1)
    plain = {
        number: None if len(line) > 12 else line.removeprefix(BOM) if number == 1 else line for number, line in whole
    }
    assert asyncio.run(found()) == [(number, line) for number, line in plain.items() if line is None or line.strip()]


async def test_a_long_line_that_comes_byte_by_byte_is_not_copied_as_often() -> None:
    async def drop_by_drop(amount: int) -> AsyncIterator[bytes]:
        for _ in range(amount):
            yield b"x"

    async def seconds(amount: int) -> float:
        began = process_time()
        assert [len(line.content or b"") async for line in _lines(drop_by_drop(amount), amount)] == [amount]
        return process_time() - began

    small = await seconds(50_000)
    assert min([await seconds(400_000) for _ in range(2)]) < 20 * small


async def test_a_byte_order_mark_in_front_of_the_first_line_is_no_part_of_it(service: Service) -> None:
    results, _ = told(
        await post(service, BOM + lines({"id": "a", "text": "x"}) + BOM + lines({"id": "b", "text": "x"}))
    )
    assert ["error" in each for each in results] == [False, True]


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "\xc3"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\\ud83d"}',
        b'{"text": "a\nb"}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "x", "metadata": {"n": 1e999}}',
        b'\xff\xfe{\x00"\x00',
        b"[" * 5000,
        b'{"text": "x"} {"text": "y"}',
    ],
)
async def test_a_line_that_is_no_text_is_named_and_its_neighbours_are_taken(service: Service, line: bytes) -> None:
    around = lines({"id": "a", "text": "before"}), lines({"id": "b", "text": "after"})
    results, summary = told(await post(service, line.join((around[0], b"\n" + around[1]))))
    wrong = [each["line"] for each in results if "error" in each]
    assert wrong == list(range(2, 2 + line.count(b"\n") + 1))
    assert (summary["documents"], summary["searchable"]) == (2, True)


GOOD = [{"id": "ä/1", "text": "größer als 🦜"}, {"id": "b", "text": "two words", "metadata": {"k": "é"}}]
STREAM = lines(GOOD[0]) + b"\nbad\r\n" + lines(GOOD[1]) + b'{"text": 5}'


async def test_it_does_not_matter_where_the_body_is_cut(tmp_path: Path) -> None:
    """One service for all examples, in this loop: hypothesis runs in a thread and hands its examples over."""
    async with serving(fakes(tmp_path)) as service:
        loop = asyncio.get_running_loop()
        whole = told(await post(service, STREAM))[0]

        @settings(max_examples=60)
        @given(st.lists(st.integers(0, len(STREAM)), max_size=12))
        @example(list(range(len(STREAM))))
        def cut(places: list[int]) -> None:
            edges = [0, *sorted(places), len(STREAM)]
            parts = [STREAM[start:end] for start, end in pairwise(edges)]
            answer = asyncio.run_coroutine_threadsafe(post(service, pieces(parts)), loop).result()
            found = told(answer)[0]
            assert [each | {"status": ""} for each in found] == [each | {"status": ""} for each in whole]

        await asyncio.to_thread(cut)


async def test_thousands_of_lines_take_little_memory_and_none_is_lost(service: Service) -> None:
    text = "padding " * 500

    async def stream() -> AsyncIterator[bytes]:
        for i in range(4000):
            yield lines({"id": f"d{i}", "text": f"item {i}", "metadata": {"n": i}, "title": ""}) + (
                b"x" + text.encode() + b"\n"
            )

    tracemalloc.start(1)
    try:
        results, summary = told(await post(service, stream(), wait="false"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (summary["documents"], summary["refused"], len(results)) == (4000, 4000, 8000)
    assert [each["line"] for each in results] == list(range(1, 8001))
    assert peak < 15_000_000, f"{peak} bytes for a body of 16 MB"
    assert (await service.finished(summary["job"]))["state"] == "done"
    described = body(await service.client.get("/collections/default"))
    assert (described["documents"], described["index_chunks"]) == (4000, 4000)
    assert await service.found("item 3999", top_k=1, filter={"n": 3999}) == ["d3999"]


def test_a_client_that_reads_only_after_sending_everything_is_not_blocked(server: httpx.Client) -> None:
    """Its answer, longer than any socket's buffer, waits in the service until the client has sent all."""
    content = b"bad line\n" * 60_000 + lines({"id": "a", "text": "good"})
    *results, summary = map(orjson.loads, _post_blindly(server, content).splitlines())
    assert [each["line"] for each in results] == list(range(1, 60_002))
    assert (summary["documents"], summary["refused"]) == (1, 60_000)


def test_a_client_that_leaves_in_the_middle_is_no_error_of_ours(server: httpx.Client) -> None:
    """What it had sent in whole batches stays, and other callers notice nothing."""
    with _connect(server) as client:
        client.sendall(_head(10**7) + lines(*({"id": f"d{i}", "text": f"item {i}"} for i in range(300))))
        sleep(0.5)
    sleep(0.3)
    page = server.get("/metrics").text
    assert 'winnow_errors_total{kind="internal"} 1' not in page
    assert 'winnow_errors_total{kind="caller-left"} 1.0' in page
    assert server.get("/documents/d0").status_code == 200
    assert server.get("/readyz").status_code == 200


def test_a_body_that_stands_still_is_given_up(tmp_path: Path) -> None:
    with listening(fakes(tmp_path, body_timeout=0.3)) as server, _connect(server) as client:
        client.sendall(_head(1000) + b'{"id": "a"')
        assert client.recv(65_536).startswith(b"HTTP/1.1 408")


async def test_a_wrong_content_type_says_which_ones_are_right(service: Service) -> None:
    answer = await service.client.post("/ingest", content=b"a,b", headers={"content-type": "text/csv"})
    told = problem(answer, 415, "unsupported-type")
    assert "application/x-ndjson" in told["detail"]
    assert pointers(answer) == []


def _head(length: int) -> bytes:
    about = (
        "POST /ingest HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/x-ndjson",
        f"Content-Length: {length}",
    )
    return "\r\n".join((*about, "", "")).encode()


def _connect(server: httpx.Client) -> socket.socket:
    return socket.create_connection((server.base_url.host, server.base_url.port or 80), timeout=20)


def _post_blindly(server: httpx.Client, content: bytes) -> bytes:
    """The answer's body, of which nothing is read before all is sent."""
    with _connect(server) as client:
        client.sendall(_head(len(content)) + content)
        with HTTPResponse(client) as answer:
            answer.begin()
            return answer.read()


async def test_an_answer_that_would_fill_the_disk_is_broken_off(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "MOST_RESULTS", 10_000)
    answer = await post(service, lines({"id": "a", "text": "kept"}) + b"1\n" * 1000)
    assert "send fewer at once" in problem(answer, 413, "too-large")["detail"]
    assert (await service.client.get("/documents/a")).status_code == 200


async def test_a_stream_goes_on_with_its_job_however_many_came_since(service: Service) -> None:
    """Jobs that are done are forgotten after so many later ones, and that of a long stream is done again and again."""
    number = service.engine.collections.shelf("default").collection.number

    async def parts() -> AsyncIterator[bytes]:
        yield lines(*({"id": f"d{i}", "text": f"item {i}"} for i in range(65)))
        await until(lambda: service.sample("winnow_index_chunks", collection="default") == 64)
        await service.engine.ingest._database.write(
            lambda db: [jobs.begin(db, number) for _ in range(jobs.JOBS_KEPT + 1)]
        )
        yield lines(*({"id": f"d{i}", "text": f"item {i}"} for i in range(65, 150)))

    _, summary = told(await post(service, parts()))
    assert summary["documents"] == 150
    assert (await service.finished(summary["job"]))["documents"] == 150
