"""Traffic that brings about some of everything that boards and alerts ask for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import httpx

PATIENCE = 30.0

ROOM = {"QUEUE_TOKENS": 1024, "SNAPSHOT_CHANGES": 1}
"""So little that two searches at once are one too many."""

WATCHED = {"OBSERVE_SHARE": 1.0, "OBSERVE_TIME": 1.0, "EXACT_BELOW": 0}
"""Every search is looked at once more, and all of them ask the graph."""

REQUEST = "known-by-this-id"
"""All requests bear it, so that any of them may stand for the others."""

COMPARED = 100
"""Searches that drift takes on either side."""

SOUNDED = 50
"""Reranked ones, without which depth is not shown."""


def begin(winnow: httpx.Client) -> None:
    """As many searches as later ones are compared with."""
    winnow.headers["x-request-id"] = REQUEST
    _ingest(winnow, "first")
    _search_often(winnow, COMPARED)
    for i in range(SOUNDED):
        assert winnow.post("/search", json={"query": f"filter {i}"}).status_code == 200
    refer = "/quality/reference?collection=default"
    eventually(lambda: winnow.post(refer).status_code == 200, "there is no reference for drift")
    assert winnow.post("/collections/default/standby", json={"recipe": {"chunk_tokens": 64}}).status_code == 201


def go_on(winnow: httpx.Client, at: int) -> None:
    """A round of it."""
    _ingest(winnow, str(at))
    assert winnow.post("/search", json={"query": "when is a filter changed"}).status_code == 200
    assert winnow.post("/search", json={"query": f"which filter {at}", "candidates": 10}).status_code == 200
    assert winnow.post("/rerank", json={"query": "which filter", "documents": ["a filter"]}).status_code == 200
    assert winnow.post("/embed", json={"inputs": ["a filter"]}).status_code == 200
    said = {"query": "which filter", "document": f"{at}-1", "clicked": True}
    assert winnow.post("/feedback", json=said).status_code in (200, 201, 204)
    assert winnow.post("/search", json={"query": ""}).status_code == 422
    assert winnow.delete(f"/documents/{at}-0").status_code == 200
    eventually(lambda: 429 in _at_once(winnow, 8), "nothing is refused")
    _search_often(winnow, COMPARED // 2)


def eventually(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, f"{otherwise} after {PATIENCE:g} seconds"
        sleep(0.1)


def _ingest(winnow: httpx.Client, name: str) -> None:
    documents = [{"id": f"{name}-{i}", "text": f"Filter number {i} is changed after {i} hours."} for i in range(20)]
    assert winnow.post("/ingest", json={"documents": documents}).status_code == 200


def _search_often(winnow: httpx.Client, amount: int) -> None:
    for i in range(amount):
        asked = {"query": f"filter {i}", "mode": "dense", "rerank": False, "include": []}
        assert winnow.post("/search", json=asked).status_code == 200


def _at_once(winnow: httpx.Client, amount: int) -> list[int]:
    with ThreadPoolExecutor(amount) as pool:
        answers = pool.map(lambda _: winnow.post("/search", json={"query": "which filter"}), range(amount))
        return [answer.status_code for answer in answers]
