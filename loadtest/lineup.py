"""Who is compared: how each peer is started, filled, and asked for the ten best of fifty candidates."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template
from typing import Any, Protocol

import httpx

from loadtest.environments import PEERS
from loadtest.load import Ask, Failed, Refused
from loadtest.passages import Passage
from loadtest.plain import ENCODER, RERANKER, decisive_reranker, older_encoder
from loadtest.service import Command, free_port

TOP, CANDIDATES = 10, 50
TOGETHER = 100
"""Passages in one request of an ingest."""
MOST_OF_AN_ERROR = 200
REFUSED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


class Dialect(Protocol):
    """How one kind of service is spoken to."""

    async def ingest(self, client: httpx.AsyncClient, passages: Sequence[Passage]) -> None:
        """Return when all passages can be found."""

    def search(self, client: httpx.AsyncClient, query: str) -> httpx.Request: ...

    def found(self, answer: Any) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """What naive.py and infinity_client.py speak."""

    async def ingest(self, client: httpx.AsyncClient, passages: Sequence[Passage]) -> None:
        for documents in _together(passages):
            (await client.post("/ingest", json={"documents": documents})).raise_for_status()

    def search(self, client: httpx.AsyncClient, query: str) -> httpx.Request:
        return client.build_request("POST", "/search", json={"query": query, "top_k": TOP, "candidates": CANDIDATES})

    def found(self, answer: Any) -> list[str]:
        return [hit["id"] for hit in answer["hits"]]


@dataclass(frozen=True, slots=True)
class Txtai:
    async def ingest(self, client: httpx.AsyncClient, passages: Sequence[Passage]) -> None:
        for documents in _together(passages):
            (await client.post("/add", json=documents)).raise_for_status()
        (await client.get("/index")).raise_for_status()

    def search(self, client: httpx.AsyncClient, query: str) -> httpx.Request:
        return client.build_request(
            "GET", "/rerank", params={"query": query, "limit": TOP, "factor": CANDIDATES // TOP}
        )

    def found(self, answer: Any) -> list[str]:
        return [hit["id"] for hit in answer]


@dataclass(frozen=True, slots=True)
class Winnow:
    """`options` are fields of the search that differ from what Winnow does by itself."""

    options: Mapping[str, object]

    async def ingest(self, client: httpx.AsyncClient, passages: Sequence[Passage]) -> None:
        for documents in _together(passages):
            (await client.post("/ingest", json={"documents": documents, "wait": False})).raise_for_status()
        while (await client.get("/collections/default")).json()["pending"]:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)

    def search(self, client: httpx.AsyncClient, query: str) -> httpx.Request:
        asked = {"query": query, "top_k": TOP, "candidates": CANDIDATES, **self.options}
        return client.build_request("POST", "/search", json=asked)

    def found(self, answer: Any) -> list[str]:
        return [hit["document_id"] for hit in answer["hits"]]


Commands = Callable[[Path, Path, int], list[Command]]
"""From an interpreter, a folder of its own and a port: the processes that make up the service."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    about: str
    requirements: str | None
    """A file in `peers/`; None: this environment."""
    commands: Commands
    dialect: Dialect

    def asker(self, client: httpx.AsyncClient) -> Ask:
        async def ask(query: str) -> list[str]:
            try:
                answer = await client.send(self.dialect.search(client, query))
            except httpx.HTTPError as error:
                raise Failed(repr(error)) from error
            if answer.status_code in REFUSED:
                raise Refused(float(answer.headers.get("retry-after", 1)))
            if not answer.is_success:
                raise Failed(f"{answer.status_code}: {answer.text[:MOST_OF_AN_ERROR]}")
            return self.dialect.found(answer.json())

        return ask


def _together(passages: Sequence[Passage]) -> Iterator[list[dict[str, str]]]:
    for start in range(0, len(passages), TOGETHER):
        yield [asdict(passage) for passage in passages[start : start + TOGETHER]]


def _naive(precision: str) -> Commands:
    def commands(python: Path, folder: Path, port: int) -> list[Command]:
        script = (python, PEERS / "naive.py", "--encoder", ENCODER, "--reranker", RERANKER)
        return [Command((*script, "--precision", precision, "--port", str(port)), _url(port, "/ready"))]

    return commands


def _txtai(python: Path, folder: Path, port: int) -> list[Command]:
    settings = folder / "txtai.yml"
    settings.write_text(Template((PEERS / "txtai.yml").read_text()).substitute(ENCODER=ENCODER, RERANKER=RERANKER))
    words = (python, "-m", "uvicorn", "txtai.api:app", "--port", str(port), "--no-access-log")
    return [Command(words, _url(port, "/openapi.json"), {"CONFIG": str(settings)})]


def _infinity(python: Path, folder: Path, port: int) -> list[Command]:
    """The reranker is the plain folder; the encoder needs the words of an older library."""
    behind = free_port()
    models = {"encoder": older_encoder(folder / "encoder"), "reranker": RERANKER}
    named = [word for name, path in models.items() for word in ("--model-id", path, "--served-model-name", name)]
    options = ("--engine", "torch", "--no-bettertransformer", "--port", str(behind))
    server = (python.parent / "infinity_emb", "v2", *named, *options, "--host", "127.0.0.1", "--log-level", "warning")
    client = (python, PEERS / "infinity_client.py", "--models", f"http://127.0.0.1:{behind}", "--port", str(port))
    return [
        Command(server, _url(behind, "/health"), {"DO_NOT_TRACK": "1"}),
        Command(client, _url(port, "/ready")),
    ]


def serve_winnow(python: Path, folder: Path, port: int) -> list[Command]:
    """Without its memory of questions: a fast machine comes round to the same ones again."""
    words = (python, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", folder / "data")
    return [Command(words, _url(port, "/readyz"), {"WINNOW_QUERY_CACHE_BYTES": "0"})]


def _serve_winnow_without_blend(python: Path, folder: Path, port: int) -> list[Command]:
    (command,) = serve_winnow(python, folder, port)
    reranker, environment = decisive_reranker(folder / "reranker"), {**command.environment, "WINNOW_LATE": "false"}
    return [replace(command, words=(*command.words, "--reranker", reranker), environment=environment)]


def _in_float32(commands: Commands) -> Commands:
    def exact(python: Path, folder: Path, port: int) -> list[Command]:
        given = commands(python, folder, port)
        return [replace(each, environment={**each.environment, "WINNOW_PRECISION": "float32"}) for each in given]

    return exact


def _url(port: int, path: str) -> str:
    return f"http://127.0.0.1:{port}{path}"


LINEUP = {
    peer.name: peer
    for peer in (
        Peer(
            "naive",
            "FastAPI, sentence-transformers and hnswlib in one process, float32, as tutorials show it",
            "naive.txt",
            _naive("float32"),
            Plain(),
        ),
        Peer(
            "naive-bfloat16",
            "the same with models opened in bfloat16",
            "naive.txt",
            _naive("bfloat16"),
            Plain(),
        ),
        Peer(
            "txtai",
            "txtai's API: embeddings (hnsw), similarity (cross-encoder), reranker",
            "txtai.txt",
            _txtai,
            Txtai(),
        ),
        Peer(
            "infinity",
            "infinity serves both models (torch engine), a thin FastAPI service in front does the HNSW",
            "infinity.txt",
            _infinity,
            Plain(),
        ),
        Peer(
            "winnow",
            "`winnow serve`, asked for what the others do: candidates by vectors, order by the cross-encoder alone",
            None,
            _serve_winnow_without_blend,
            Winnow({"mode": "dense"}),
        ),
        Peer(
            "winnow-float32",
            "the same with WINNOW_PRECISION=float32",
            None,
            _in_float32(_serve_winnow_without_blend),
            Winnow({"mode": "dense"}),
        ),
        Peer(
            "winnow-default",
            "`winnow serve` as it comes: 50 candidates by vectors and words, compared token by token, of which the "
            "cross-encoder reads as long as more could be among the ten best; order by the blend",
            None,
            serve_winnow,
            Winnow({"candidates": "auto"}),
        ),
        Peer(
            "winnow-default-float32",
            "the same with WINNOW_PRECISION=float32",
            None,
            _in_float32(serve_winnow),
            Winnow({"candidates": "auto"}),
        ),
        Peer(
            "winnow-all",
            "`winnow-default` with all 50 read",
            None,
            serve_winnow,
            Winnow({}),
        ),
        Peer(
            "winnow-unread",
            "`winnow-default` with none read: `rerank: false`",
            None,
            serve_winnow,
            Winnow({"rerank": False}),
        ),
    )
}
SHORT = ("naive", "txtai", "infinity", "winnow")


def interpreter(peer: Peer, environments: Callable[[str], Path]) -> Path:
    return environments(peer.requirements) if peer.requirements else Path(sys.executable)
