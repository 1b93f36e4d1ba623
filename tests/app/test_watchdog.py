"""What comes of a model that hangs or dies, seen from outside; and of an event loop that stands still."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

from app.watchdog import PERIOD
from loadtest.process import Process
from tests.app.serving import Service, documents, problem, until


def test_a_model_that_hangs_is_told_of_and_the_process_ends_so_that_it_can_be_started_anew(tmp_path: Path) -> None:
    with Process(tmp_path, RERANKER="fake:frail", STALL_SECONDS=0.5, HANG_SECONDS=5) as service:
        service.await_ready()
        assert service.client.post("/ingest", json={"documents": documents(3)}).status_code == 200
        answer = service.client.post("/search", json={"query": "a topic that hangs"})
        assert "reranker:fake:frail has worked for" in problem(answer, 503, "unavailable")["detail"]
        assert answer.headers["retry-after"]
        ready = service.client.get("/readyz")
        assert ready.status_code == 503
        assert any("on a batch of 3 texts" in reason for reason in ready.json()["reasons"])
        assert service.client.post("/search", json={"query": "topic", "rerank": False}).json()["hits"]
        problem(service.client.post("/search", json={"query": "topic"}), 503, "unavailable")
        assert service.end_by_itself() == 4
        service.start()
        service.await_ready()
        assert len(service.client.post("/search", json={"query": "topic"}).json()["hits"]) == 3


def test_a_process_that_was_stopped_does_not_hang(tmp_path: Path) -> None:
    with Process(tmp_path, RERANKER="fake:slow", STALL_SECONDS=2, HANG_SECONDS=1) as service:
        service.await_ready()
        assert service.client.post("/ingest", json={"documents": documents(200)}).status_code == 200
        with ThreadPoolExecutor() as threads:
            search = threads.submit(service.client.post, "/search", json={"query": "topic", "candidates": 200})
            sleep(0.2)
            os.kill(service.pid, signal.SIGSTOP)
            sleep(4)
            os.kill(service.pid, signal.SIGCONT)
            assert search.result().status_code == 200
        assert service.client.get("/readyz").status_code == 200


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux says which threads there are")
def test_a_thread_that_dies_is_replaced_and_what_waits_is_taken_up_again(tmp_path: Path) -> None:
    with Process(tmp_path, ENCODER="fake:frail", RERANKER="fake:frail") as service:
        service.await_ready()
        problem(service.client.post("/search", json={"query": "an encoder that dies"}), 503, "unavailable")
        assert service.client.post("/ingest", json={"documents": documents(3)}).status_code == 200
        problem(service.client.post("/rerank", json={"query": "dies", "texts": ["a reranker"]}), 503, "unavailable")
        assert service.client.post("/search", json={"query": "topic"}).json()["hits"]
        page = service.client.get("/metrics").text
        assert 'winnow_worker_restarts_total{worker="cpu"} 1.0' in page
        assert 'winnow_worker_restarts_total{worker="cpu, queries"} 1.0' in page


async def test_a_loop_that_stood_still_shows(service: Service) -> None:
    await until(lambda: service.sample("winnow_loop_lag_seconds") > 0)
    sleep(4 * PERIOD)  # noqa: ASYNC251  # it is to stand still
    await until(lambda: service.sample("winnow_loop_lag_seconds") > PERIOD)
