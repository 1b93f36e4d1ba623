"""Somebody who takes in, replaces and deletes without pause."""

from __future__ import annotations

import random
import threading

import httpx


class Traffic(threading.Thread):
    """Takes in, replaces and deletes without pause; each text tells which version of which document it is."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self._client = httpx.Client(base_url=client.base_url, timeout=30)
        self._chance = random.Random(7)
        self.asked: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}
        """Documents by the number of the last request about them; below 0 if it deleted them."""
        self.done = threading.Event()

    def run(self) -> None:
        count = 0
        with self._client:
            while not self.done.is_set():
                count += 1
                self._step(count)

    def _step(self, count: int) -> None:
        names = [f"t{n}" for n in self._chance.sample(range(200), 5)]
        step = dict.fromkeys(names, -count if count % 4 == 0 else count)
        self.asked |= step
        if count % 4 == 0:
            answer = self._client.post("/documents/delete", json={"ids": names})
        else:
            some = [{"id": name, "text": text_of(name, count)} for name in names]
            answer = self._client.post("/ingest", json={"documents": some, "wait": count % 3 == 0})
        assert answer.status_code in (200, 202), answer.text
        self.acknowledged |= step


def text_of(name: str, version: int) -> str:
    return f"{name} in version {version} " * (90 if version % 3 else 3)
