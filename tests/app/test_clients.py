"""Clients that no one wants, over sockets, against `winnow serve`: they are told and cut off, and others are served."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil
import pytest

from loadtest.process import Process
from tests.app.serving import documents

SOON = 15.0
MOST = 60
LIMITS: dict[str, object] = {
    "MAX_CONNECTIONS": MOST, "MAX_HEAD_BYTES": 8192, "HEADER_TIMEOUT": 1, "IDLE_TIMEOUT": 2, "BODY_TIMEOUT": 1,
    "SEND_TIMEOUT": 1, "BODY_RATE": 1000, "MAX_UPLOADS": 2, "MAX_UPLOAD_BYTES": 2**20,
}  # fmt: skip
NDJSON = b"POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
FORM = b"POST /ingest/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
LONG = b"Content-Length: 1000000\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="half.md"\r\n\r\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("data"), **LIMITS) as running:
        running.await_ready()
        large = documents(40, padding="x" * 60_000)
        assert running.client.post("/ingest", json={"documents": large}).status_code == 200
        yield running


@contextmanager
def connected(service: Process) -> Iterator[socket.socket]:
    url = service.client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=SOON) as client:
        yield client


def cut(service: Process, reason: str) -> float:
    """Connections that were cut off for a reason so far. Whoever asks is served meanwhile."""
    try:
        page = service.client.get("/metrics").text
    except httpx.TransportError:  # the connection that was kept was let go as idle in the moment that it was asked
        page = service.client.get("/metrics").text
    found = re.search(rf'^winnow_cut_connections_total{{reason="{reason}"}} (\S+)$', page, re.M)
    return float(found[1]) if found else 0.0


def until(holds: Callable[[], object]) -> None:
    deadline = monotonic() + SOON
    while not holds():
        assert monotonic() < deadline, "it never came to pass"
        sleep(0.05)


def last_words(client: socket.socket, nudge: bytes = b"") -> bytes:
    """All that is said before the connection ends; meanwhile the client sends on, if it is one that does."""
    heard, deadline = b"", monotonic() + SOON
    client.settimeout(0.05)
    while monotonic() < deadline:
        try:
            if nudge:
                client.sendall(nudge)
            piece = client.recv(65_536)
        except TimeoutError:
            continue
        except ConnectionError:
            return heard
        if not piece:
            return heard
        heard += piece
    raise AssertionError(f"the connection was never ended, after {heard!r}")


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_headers_that_never_end_are_waited_for_so_long_and_no_longer(service: Process) -> None:
    before = cut(service, "slow-head")
    with connected(service) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        answer = last_words(client, nudge=b"z")
    assert status(answer) == 408
    assert b"urn:winnow:problem:too-slow" in answer
    assert cut(service, "slow-head") == before + 1


def test_a_second_request_has_as_little_time_for_its_headers(service: Process) -> None:
    with connected(service) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: b"alive" in client.recv(65_536))
        client.sendall(b"GET /healthz HT")
        assert status(last_words(client)) == 408


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "empty lines"])
def test_who_says_nothing_is_let_go_without_a_word(service: Process, sent: bytes) -> None:
    before = cut(service, "idle")
    with connected(service) as client:
        assert last_words(client, nudge=sent) == b""
    assert cut(service, "idle") == before + 1


@pytest.mark.parametrize(
    "head",
    [b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000, b"GET /healthz HTTP/1.1\r\n" + b"X: x\r\n" * 5000 + b"\r\n",
     b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n"],
    ids=["a header", "many headers", "the path"],
)  # fmt: skip
def test_headers_that_are_too_large_are_refused(service: Process, head: bytes) -> None:
    before = cut(service, "large-head")
    with connected(service) as client:
        client.sendall(head)
        answer = last_words(client)
    assert status(answer) == 431
    assert b"longer than 8192 bytes" in answer
    assert cut(service, "large-head") == before + 1


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01 this is TLS", b"GET / HTTP/9.9\r\n\r\n", NDJSON + b"Content-Length: -1\r\n\r\n",
     NDJSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", NDJSON + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
     NDJSON + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    ids=["TLS", "a version", "a length", "a chunk's size", "a chunk's end", "two lengths"],
)  # fmt: skip
def test_what_is_not_http_is_told_so(service: Process, sent: bytes) -> None:
    before = cut(service, "malformed")
    with connected(service) as client:
        client.sendall(sent)
        answer = last_words(client)
    assert status(answer) == 400
    assert b"urn:winnow:problem:malformed" in answer
    assert cut(service, "malformed") == before + 1


@pytest.mark.parametrize("head", [NDJSON, FORM], ids=["lines", "a form"])
def test_a_body_that_stands_still_or_trickles_is_not_waited_for(service: Process, head: bytes) -> None:
    for nudge in (b"", b" "):
        with connected(service) as client:
            client.sendall(head + LONG + b"Connection: close\r\n\r\n" + (PART if head == FORM else b""))
            answer = last_words(client, nudge=nudge)
        assert status(answer) == 408
        assert (b"less than 1000 bytes a second" if nudge else b"came for 1 seconds") in answer


def test_trailers_without_end_are_refused_and_take_no_memory(service: Process) -> None:
    with connected(service) as client:
        client.sendall(NDJSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        assert status(last_words(client, nudge=b"x" * 1000)) == 431


def descriptors(service: Process) -> int:
    """Less those of the database, which each of its readers opens when it is first needed."""
    held = 0
    for link in Path(f"/proc/{service.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held += "winnow.db" not in os.readlink(link)
    return held


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux says what is open, deleted files too")
def test_half_an_upload_gives_its_room_and_its_files_back(service: Process) -> None:
    before = descriptors(service)
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(2):
                client = stack.enter_context(connected(service))
                client.sendall(FORM + LONG + b"\r\n" + PART + b"half " * 100_000)
            sleep(0.1)
    whole = {"files": ("whole.md", b"# Whole")}
    until(lambda: service.client.post("/ingest/files", files=whole).status_code == 200)
    until(lambda: descriptors(service) <= before + 1)


def test_who_never_reads_an_answer_is_cut_off_and_takes_no_memory(service: Process) -> None:
    process = psutil.Process(service.pid)
    before, memory = cut(service, "unread"), process.memory_info().rss
    content = b'{"query": "topic", "top_k": 1000, "rerank": false}'
    search = (
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    with ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(connected(service))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(8 * (search % (len(content), content)))  # more than the kernel keeps for it
        until(lambda: cut(service, "unread") == before + 4)
        assert process.memory_info().rss < memory + 200_000_000


def test_more_connections_than_allowed_are_told_so(service: Process) -> None:
    before = cut(service, "crowded")
    with ExitStack() as stack:
        held = [stack.enter_context(connected(service)) for _ in range(MOST + 5)]
        answers = [client.recv(65_536) for client in held[-5:]]
        assert [status(answer) for answer in answers] == [429] * 5
        assert cut(service, "crowded") >= before + 5
    until(lambda: "winnow_connections 1.0" in service.client.get("/metrics").text)


def test_requests_ahead_of_their_answers_are_answered_in_turn_up_to_a_limit(service: Process) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    before = cut(service, "ahead")
    with connected(service) as client:
        client.sendall(10 * one + one.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
        assert last_words(client).count(b'{"status":"alive"}') == 11
    with connected(service) as client:
        client.sendall(1000 * one)
        last_words(client)
    assert cut(service, "ahead") == before + 1


def test_after_all_of_them_every_descriptor_is_back(service: Process) -> None:
    until(lambda: "winnow_connections 1.0" in service.client.get("/metrics").text)
    page = service.client.get("/metrics").text
    assert 'winnow_errors_total{kind="internal"} 0.0' in page
    assert len(psutil.Process(service.pid).net_connections()) <= 2
