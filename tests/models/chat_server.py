"""A chat endpoint on a real socket, which answers, stalls, refuses and counts as a test tells it to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

PATIENCE = 20.0

_SHOWN = re.compile(r"Title: (.*)\nPassage:\n(.*?)\n\nAnswer with JSON", re.DOTALL)


@dataclass(frozen=True)
class Seen:
    """One request as it came in."""

    at: float
    number: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def title(self) -> str:
        found = _SHOWN.search(self.prompt)
        assert found, self.prompt
        return found[1]


Answer = Callable[[Seen], Response]


@dataclass
class ChatServer:
    """What the server is told to do and what it has seen."""

    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    @property
    def titles(self) -> list[str]:
        return [each.title for each in self.seen]


def said(content: str | None, *, prompt_tokens: int = 100, completion_tokens: int = 40, **choice: Any) -> Response:
    """A completion with this content."""
    return reply(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, **choice}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
        }
    )


def questions(*queries: str) -> str:
    return json.dumps({"questions": [{"style": "question", "query": query} for query in queries]})


def good(seen: Seen) -> Response:
    """Two questions that name the passage's title."""
    return said(questions(f"what is the use of {seen.title}", f"{seen.title} explained"))


def refusal(status: int, message: str, **headers: str) -> Response:
    return reply({"error": {"message": message, "type": "test"}}, status, **headers)


def reply(body: object, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps(body), status, named, "application/json")


@contextmanager
def chat_server(answer: Answer = good) -> Iterator[ChatServer]:
    """The server, in a thread of its own; its answers may sleep without holding up each other."""
    told = ChatServer(answer)
    server = uvicorn.Server(uvicorn.Config(_app(told), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert monotonic() < deadline, "the server took too long to start"
            sleep(0.005)
        told.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        yield told
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def _app(told: ChatServer) -> FastAPI:
    app = FastAPI()
    mutex = threading.Lock()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body, headers = await request.json(), dict(request.headers)
        with mutex:
            seen = Seen(monotonic(), len(told.seen), body, headers)
            told.seen.append(seen)
        return await _in_thread(told.answer, seen)

    return app


async def _in_thread(answer: Answer, seen: Seen) -> Response:
    from anyio import to_thread

    return await to_thread.run_sync(answer, seen)
