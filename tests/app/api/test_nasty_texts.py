"""Odd texts in every place that takes a text: kept as they are and found where they stand, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.app.serving import Json, body, fakes, listening
from tests.nasty import BLANK, KEPT, NO_TEXT

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SHORT = {name: text for name, text in KEPT.items() if len(text) <= 512 and text == text.strip()}
LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Holds every text that can be kept, as text and as what there is to say of it."""
    with listening(fakes(tmp_path_factory.mktemp("nasty"))) as client:
        documents = [{"id": name, "text": text, **_about(name, text)} for name, text in KEPT.items()]
        told = client.post("/ingest", content=b"".join(map(_line, documents)), headers=LINES).text.splitlines()
        assert [json.loads(line).get("status") for line in told[:-1]] == ["created"] * len(KEPT)
        yield client


def _line(document: Json) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _about(name: str, text: str) -> Json:
    """The title no longer than any recipe takes."""
    return {"title": text[:40] if text[:40].strip() else "", "metadata": {"name": name, "text": text[:512]}}


def ask(server: httpx.Client, path: str, sent: Json) -> httpx.Response:
    """With escapes for what is no character, which httpx would not send."""
    return server.post(path, content=json.dumps(sent), headers={"content-type": "application/json"})


def test_what_was_kept_comes_back_as_it_was(server: httpx.Client) -> None:
    for name, text in KEPT.items():
        kept = body(server.get(f"/documents/{quote(name)}"))
        assert {"text": kept["text"], "title": kept["title"], "metadata": kept["metadata"]} == {
            "text": text,
            **_about(name, text),
        }
        assert all(chunk["start"] < chunk["end"] <= len(text) for chunk in kept["chunks"])


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_any_text_can_be_asked_and_every_hit_stands_where_it_says(server: httpx.Client, mode: str) -> None:
    for name, text in KEPT.items():
        asked = {"query": text[:2000], "mode": mode, "highlight": True, "explain": True, "expand": 2, "top_k": 5}
        found = ask(server, "/search", asked)
        assert found.status_code == 200, (name, found.text[:300])
        for hit in body(found)["hits"]:
            _check_place(hit)


def _check_place(hit: Json) -> None:
    """Offsets are of the document's own text, in characters."""
    whole, context = KEPT[hit["document_id"]], hit["context"]
    assert whole[hit["start"] : hit["end"]] == hit["text"]
    assert whole[context["start"] : context["end"]] == context["text"]
    assert hit["text"] in context["text"]
    if hit.get("highlight"):
        assert hit["start"] <= hit["highlight"]["start"] < hit["highlight"]["end"] <= hit["end"]


def test_any_text_is_found_by_a_filter_that_names_it(server: httpx.Client) -> None:
    for name, text in KEPT.items():
        found = ask(server, "/search", {"query": "x", "filter": {"name": name, "text": text[:512]}, "rerank": False})
        assert {hit["document_id"] for hit in body(found)["hits"]} == {name}


def test_any_short_text_is_an_id_and_a_key_unless_it_has_controls(server: httpx.Client) -> None:
    server.post("/collections", json={"name": "ids"})
    for name, text in SHORT.items():
        documents = [{"id": text, "text": "x", "metadata": {text.replace(".", ""): text}}]
        kept = ask(server, "/ingest", {"documents": documents, "collection": "ids"})
        url = f"/documents/{quote(text, safe='')}"
        assert kept.status_code == (422 if CONTROL.search(text) else 200), (name, kept.text[:300])
        if kept.status_code == 200:
            assert body(server.get(url, params={"collection": "ids"}))["metadata"] == documents[0]["metadata"]
            assert body(server.delete(url, params={"collection": "ids"})) == {"deleted": [text]}


def test_any_short_text_is_the_name_of_nothing(server: httpx.Client) -> None:
    for path in ("/collections/", "/jobs/", "/documents/"):
        for name, text in SHORT.items():
            assert server.get(path + quote(text, safe="")).status_code == 404, (path, name)


def test_any_text_is_scored_and_embedded_in_place_of_other_services(server: httpx.Client) -> None:
    for name, text in KEPT.items():
        scored = ask(server, "/rerank", {"query": text[:2000], "texts": [text, "plain"], "truncate": True})
        assert scored.status_code == 200, (name, scored.text[:300])
        vectors = ask(server, "/v1/embeddings", {"input": [text]})
        assert vectors.status_code == 200, (name, vectors.text[:300])


def test_any_text_is_a_file(server: httpx.Client) -> None:
    server.post("/collections", json={"name": "files"})
    files = [("files", (f"{name}.txt", text.encode())) for name, text in KEPT.items()]
    told = server.post("/ingest/files", files=files, data={"collection": "files"}).json()["files"]
    assert {file["path"]: file["status"] for file in told if file["status"] != "created"} == {}


PLACES: dict[str, Callable[[str], tuple[str, Json]]] = {
    "query": lambda text: ("/search", {"query": text}),
    "collection": lambda text: ("/search", {"query": "x", "collection": text}),
    "operator": lambda text: ("/search", {"query": "x", "filter": {"a": {text: 1}}}),
    "date": lambda text: ("/search", {"query": "x", "newer_than": text}),
    "text": lambda text: ("/ingest", {"documents": [{"text": text}]}),
    "id": lambda text: ("/ingest", {"documents": [{"id": text, "text": "x"}]}),
    "name": lambda text: ("/collections", {"name": text}),
    "hash": lambda text: ("/ingest/files/known", {"files": [{"path": "a.txt", "sha256": text}]}),
    "model": lambda text: ("/v1/rerank", {"query": "x", "documents": ["x"], "model": text}),
}
MAY_BE_BLANK: dict[str, Callable[[str], tuple[str, Json]]] = {
    "key": lambda text: ("/ingest", {"documents": [{"text": "x", "metadata": {text: 1}}]}),
    "title": lambda text: ("/ingest", {"documents": [{"text": "x", "title": text}]}),
    "field": lambda text: ("/search", {"query": "x", "filter": {text: 1}}),
    "value": lambda text: ("/search", {"query": "x", "filter": {"a": text.replace("\x01", "\0")}}),
}


@pytest.mark.parametrize("place", [*PLACES, *MAY_BE_BLANK])
def test_what_is_no_text_is_refused(server: httpx.Client, place: str) -> None:
    for name, text in (NO_TEXT if place in MAY_BE_BLANK else NO_TEXT | BLANK).items():
        answer = ask(server, *(PLACES | MAY_BE_BLANK)[place](text))
        assert answer.status_code in (400, 404, 413, 422), (name, answer.status_code, answer.text[:300])
        assert answer.headers["content-type"] == "application/problem+json"
