"""What every answer says to browsers, and the one page that there is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from app.api.reference import page
from tests.app.serving import Service, body, fakes, problem, serving


async def test_every_answer_tells_browsers_to_do_nothing_with_it(service: Service) -> None:
    ways = [("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/nowhere"), ("POST", "/search"), ("GET", "/docs"),
            ("GET", "/openapi.json"), ("GET", "/collections")]  # fmt: skip
    for method, path in ways:
        headers = (await service.client.request(method, path)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "no-referrer", path
        assert headers["cache-control"] == "no-store", path
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        policy = headers.get_list("content-security-policy")
        assert len(policy) == 1, path
        assert "default-src 'none'" in policy[0], path
        assert "frame-ancestors 'none'" in policy[0], path
        assert "script-src" not in policy[0], path


async def test_an_answer_to_what_nobody_foresaw_is_like_all_others(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, encoder="fake:frail")) as service:
        answer = await service.client.post("/search", json={"query": "a library quotes this"})
        problem(answer, 500, "internal")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert service.sample("winnow_request_seconds_count", route="/search", status="500") == 1
        assert service.sample("winnow_errors_total", kind="internal") == 1


class Page(HTMLParser):
    """The tags of a page, and the addresses that they name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("href", "src"):
                self.addresses.add(value or "")
            if name == "id":
                self.places.add(value or "")


async def test_the_documentation_is_whole_and_asks_nobody_for_anything(service: Service) -> None:
    answer = await service.client.get("/docs")
    schema = body(await service.client.get("/openapi.json"))
    assert answer.headers["content-type"].startswith("text/html")
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in answer.text
    shown = Page(answer.text)
    assert not shown.tags & {"script", "link", "img", "iframe", "form"}
    assert shown.addresses - {"openapi.json"} <= {f"#{name}" for name in schema["components"]["schemas"]}
    assert shown.places == set(schema["components"]["schemas"])
    assert not re.search(r"style=", answer.text), "the policy would forbid it"


def test_what_the_documentation_shows_is_text_whatever_it_is() -> None:
    evil = "<script>alert(1)</script>"
    parameter = {"name": evil, "in": "query", "schema": {"enum": [evil]}, "description": evil}
    responses = {"200": {"description": evil}}
    operation = {
        "tags": [evil],
        "summary": evil,
        "description": evil,
        "responses": responses,
        "parameters": [parameter],
    }
    shape = {"description": evil, "properties": {evil: {"type": evil, "default": evil, "description": evil}}}
    shown = page({
        "info": {"title": evil, "version": evil, "description": evil},
        "paths": {evil: {"get": operation}},
        "components": {"schemas": {evil: shape}},
    })  # fmt: skip
    assert "script" not in Page(shown).tags
