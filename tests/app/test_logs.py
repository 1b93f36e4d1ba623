"""What a real process writes to its log, and what it must not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from app.stores.keys import KeyFile
from loadtest.process import PATIENCE, Process

MARK = "Zyxwvut"
"""Stands in every text that a caller sends."""


def provoke(client: httpx.Client) -> dict[str, int]:
    """All kinds of requests, good and bad, each with the mark wherever a caller may write."""
    post = client.post
    odd = {"x-request-id": f"{MARK} {MARK}", "user-agent": MARK, "origin": f"http://{MARK}"}
    pdf = ("files", (f"{MARK}.pdf", f"%PDF-1.4 {MARK}".encode(), "application/pdf"))
    line = json.dumps({"id": MARK, "text": MARK, "metadata": {MARK: MARK}}).encode()
    answers = {
        "a document": post("/ingest", json={"documents": [{"id": f"{MARK}-1", "title": MARK, "text": f"{MARK} text"}]}),
        "lines": post("/ingest", content=line + b"\n{" + line, headers={"content-type": "application/x-ndjson"}),
        "no JSON": post("/ingest", content=b"{" + line, headers={"content-type": "application/json"}),
        "a damaged file": client.post("/ingest/files", files=[pdf], data={"metadata": json.dumps({"a": MARK})}),
        "a search": post("/search", json={"query": MARK, "explain": True, "highlight": True}),
        "an odd field": post("/search", json={"query": MARK, MARK: MARK}),
        "a filter": post("/search", json={"query": MARK, "filter": {MARK: {"$odd": MARK}}}),
        "a wrong kind": post("/search", json={"query": [MARK], "top_k": MARK}),
        "an unknown collection": post("/search", json={"query": MARK, "collection": MARK}),
        "an unknown document": client.get(f"/documents/{MARK}"),
        "an odd parameter": client.get(f"/documents/{MARK}", params={MARK: MARK}),
        "an unknown path": client.get(f"/{MARK}/{MARK}?{MARK}={MARK}", headers=odd),
        "a wrong key": client.get("/collections", headers={"authorization": f"Bearer winnow_{MARK}_{MARK}"}),
        "too long a query": post("/search", json={"query": MARK * 9000}),
        "texts of one's own": post("/rerank", json={"query": MARK, "texts": [MARK], "truncate": True}),
        "a model of another name": post("/v1/embeddings", json={"input": MARK, "model": MARK}),
        "a library that quotes": post("/search", json={"query": f"{MARK} quotes"}),
        "a model that fails": post("/search", json={"query": f"{MARK} fails"}),
        "a document that a model fails on": post(
            "/ingest", json={"documents": [{"id": MARK, "text": f"{MARK} fails"}]}
        ),
        "a document that a library quotes": post(
            "/ingest", json={"documents": [{"text": f"{MARK} quotes"}], "wait": False}
        ),
        "a deletion": client.delete(f"/documents/{MARK}-1"),
    }
    return {name: answer.status_code for name, answer in answers.items()}


@contextmanager
def logging_to(path: Path, process: Process) -> Iterator[Process]:
    with path.open("wb") as process.errors, process:
        process.await_ready()
        yield process


def written(path: Path, holds: Callable[[str], bool]) -> str:
    """The log, once it has what was waited for."""
    deadline = monotonic() + PATIENCE
    while not holds(text := path.read_text()):
        assert monotonic() < deadline, text
        sleep(0.05)
    return text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nothing_of_what_callers_send_is_in_the_log(tmp_path: Path, log_format: str) -> None:
    _, key = KeyFile(tmp_path / "keys.json").create("app", ["admin"], [], None)
    log = tmp_path / "log"
    settings = {"LOG_FORMAT": log_format, "LOG_LEVEL": "debug", "ENCODER": "fake:frail"}
    with logging_to(log, Process(tmp_path, **settings)) as service:
        service.client.headers["authorization"] = f"Bearer {key}"
        statuses = provoke(service.client)
        assert {name for name, status in statuses.items() if status >= 500} == {
            "a library that quotes", "a model that fails", "a document that a model fails on"
        }  # fmt: skip
        text = written(log, lambda text: "indexing is stuck" in text)
    assert MARK.lower() not in text.lower()
    assert key.split("_", 2)[2] not in text
    assert text.count("request failed unforeseen") == 1, "an error is told once"
    assert "ValueError" in text
    assert "models/fake.py" in text, "where it arose is told"
    assert text.count("ModelError") >= 2


def test_messages_of_errors_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with logging_to(log, Process(tmp_path, ENCODER="fake:frail", LOG_TEXTS="true")) as service:
        for word in ("quotes", "fails"):
            assert service.client.post("/search", json={"query": f"{MARK} {word}"}).status_code == 500
        text = written(log, lambda text: "fails on" in text)
    assert f"can't make anything of '{MARK} quotes'" in text
