from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from loadtest.lineup import Peer, Plain
from loadtest.load import Answer, Ask, Load, closed_loop, likeness, open_loop
from loadtest.service import free_port

PATIENCE = 10.0
STALL = 0.5
SLOW = STALL / 4


class Search(BaseModel):
    query: str


@asynccontextmanager
async def asking(app: FastAPI) -> AsyncIterator[Ask]:
    """How to ask a service that listens on a socket."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None) as client:
        yield Peer("tested", "", None, lambda python, folder, port: [], Plain()).asker(client)
    server.should_exit = True
    await serving


def stalling_once(at: int) -> FastAPI:
    """One search at a time; that with the number `at` takes half a second, all others nothing."""
    app, turn, numbers = FastAPI(), asyncio.Lock(), count()

    @app.post("/search")
    async def search(body: Search) -> dict[str, list[dict[str, str]]]:
        async with turn:
            await asyncio.sleep(STALL if next(numbers) == at else 0)
        return {"hits": [{"id": body.query}]}

    return app


def refusing(times: int) -> FastAPI:
    """Each query is refused so often before it is answered."""
    app, asked = FastAPI(), Counter[str]()

    @app.post("/search")
    async def search(body: Search, response: Response) -> dict[str, list[dict[str, str]]]:
        asked[body.query] += 1
        if asked[body.query] <= times:
            response.status_code, response.headers["retry-after"] = 429, "0.05"
        return {"hits": []}

    return app


def questions() -> Iterator[str]:
    return (f"question {number}" for number in count())


def slow(load: Load) -> int:
    return sum(answer.seconds > SLOW for answer in load.answers)


async def test_a_stall_shows_in_all_that_arrive_meanwhile_and_not_in_one_answer_alone() -> None:
    async with asking(stalling_once(at=0)) as ask:
        load = await open_loop(ask, questions(), rate=50, seconds=1, patience=PATIENCE)
    assert len(load.answers) == load.answered == 50
    assert slow(load) >= (STALL - SLOW) * 50 - 1
    assert max(answer.seconds for answer in load.answers) >= STALL


async def test_a_closed_loop_sees_the_same_stall_once() -> None:
    async with asking(stalling_once(at=0)) as ask:
        load = await closed_loop(ask, questions(), clients=1, seconds=1.5, patience=PATIENCE)
    assert load.answers[0].seconds >= STALL
    assert sum(answer.seconds for answer in load.answers) <= load.lasted, (
        "a client alone waits for one answer at a time"
    )
    assert load.rate == pytest.approx(load.answered / load.lasted)


async def test_time_counts_from_the_planned_arrival_even_where_the_asker_is_late() -> None:
    async def hold_everything_up(question: str) -> list[str]:
        if question == "question 0":
            time.sleep(STALL)  # noqa: ASYNC251  # as a machine does that has no time for the one who measures
        return []

    load = await open_loop(hold_everything_up, questions(), rate=100, seconds=0.2, patience=PATIENCE)
    assert all(answer.seconds >= STALL - number / 100 - 0.01 for number, answer in enumerate(load.answers))


async def test_closed_clients_ask_side_by_side_each_a_question_of_its_own() -> None:
    async with asking(stalling_once(at=-1)) as ask:
        load = await closed_loop(ask, questions(), clients=4, seconds=0.2, patience=PATIENCE)
    asked = [answer.question for answer in load.answers]
    assert len(asked) == len(set(asked)) >= 4
    assert all(answer.found == (answer.question,) for answer in load.answers)


async def test_a_refused_client_insists_and_its_waiting_counts() -> None:
    async with asking(refusing(times=2)) as ask:
        load = await closed_loop(ask, questions(), clients=1, seconds=0.01, patience=PATIENCE)
    assert (load.answered, load.refusals) == (1, 2)
    assert load.answers[0].seconds >= 0.1


async def test_a_refused_arrival_goes_away_and_is_in_no_percentile() -> None:
    async with asking(refusing(times=1)) as ask:
        load = await open_loop(ask, questions(), rate=50, seconds=0.1, patience=PATIENCE)
    assert (load.answered, load.count("refused"), load.refusals) == (0, 5, 5)
    assert load.percentiles() is None


async def test_who_waits_for_too_long_gives_up_and_counts_with_that_time() -> None:
    async with asking(stalling_once(at=0)) as ask:
        load = await open_loop(ask, questions(), rate=1, seconds=1, patience=0.2)
    assert load.count("given up") == 1
    waited = 1000 * load.answers[0].seconds
    assert waited >= 200
    assert load.percentiles() == pytest.approx({"p50": waited, "p95": waited, "p99": waited})


async def test_an_error_is_counted_and_is_no_answer() -> None:
    async with asking(FastAPI()) as ask:  # knows no /search
        load = await closed_loop(ask, questions(), clients=1, seconds=0.01, patience=PATIENCE)
    assert load.answered == 0
    assert load.count("failed") == len(load.answers) >= 1
    assert load.answers[0].trouble.startswith("404: ")


def test_percentiles_are_those_of_the_seconds() -> None:
    load = Load(tuple(Answer("q", "answered", number / 1000) for number in range(101)), lasted=2.0)
    assert load.percentiles() == pytest.approx({"p50": 50, "p95": 95, "p99": 99})
    assert load.rate == 50.5


def test_likeness_counts_shared_hits_and_same_first_ones() -> None:
    right = {"a": ["1", "2"], "b": ["3", "4"]}
    answers = [
        Answer("a", "answered", 1, ("1", "2")),
        Answer("b", "answered", 1, ("4", "5")),
        Answer("b", "refused", 1),
        Answer("nobody knows", "answered", 1, ("9",)),
    ]
    found = likeness(answers, right)
    assert found is not None
    assert (found.compared, found.overlap, found.same_first) == (2, 0.75, 0.5)
    assert likeness(answers[2:], right) is None
