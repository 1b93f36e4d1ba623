"""For people who want to watch: searches of a running service, with locust's page of curves.

    pip install -c constraints.txt -e '.[loadtest]'
    locust --locustfile loadtest/locustfile.py --host http://127.0.0.1:8000

Takes the benchmark's passages in first, as a collection of its own, which it drops at the end.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import httpx
from locust import HttpUser, constant, events, task

from loadtest.passages import passages, questions

COLLECTION = "locust"
ASKED = questions()


@events.test_start.add_listener
def fill(environment: Any, **_: Any) -> None:
    documents = [asdict(passage) for passage in passages(1000)]
    with httpx.Client(base_url=environment.host, timeout=600) as client:
        client.post("/collections", json={"name": COLLECTION})
        client.post("/ingest", json={"documents": documents, "collection": COLLECTION}).raise_for_status()


@events.test_stop.add_listener
def clear(environment: Any, **_: Any) -> None:
    httpx.delete(f"{environment.host}/collections/{COLLECTION}", timeout=60)


class Searcher(HttpUser):
    """Asks again when there is an answer; a refusal counts as a failure."""

    wait_time = constant(0)

    @task
    def search(self) -> None:
        query = random.choice(ASKED)
        self.client.post("/search", json={"query": query, "collection": COLLECTION, "top_k": 10, "candidates": 50})
