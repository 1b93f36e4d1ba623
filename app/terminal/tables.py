"""Answers of the service as tables for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

SNIPPET = 200
"""Characters of a hit's text that are shown."""

Answer = Mapping[str, Any]

NESTED = ("recipe", "calibrations", "standby")
"""Of what is known of a collection."""


def hits(answer: Answer, query: str) -> RenderableType:
    """Hits with what each stage thought of them, and below them where the time went."""
    if not answer["hits"]:
        found = "Nothing relevant" if answer.get("nothing_relevant") else "Nothing found"
        return Group(Text(f"{found} in collection '{answer['collection']}'."), _foot(answer))
    stages = list(dict.fromkeys(stage for hit in answer["hits"] for stage in hit["stages"]))
    known = ["relevance"] if "relevance" in answer["hits"][0] else []
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("#", *known, "score", *stages):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("document", overflow="fold")
    for rank, hit in enumerate(answer["hits"], 1):
        thoughts = [_thought(hit["stages"].get(stage)) for stage in stages]
        figures = [_short(hit[name]) for name in (*known, "score")]
        table.add_row(str(rank), *figures, *thoughts, Text("\n").join([*_where(hit), _told(hit, query)]))
    return Group(table, _foot(answer))


def documents(found: Sequence[Answer], *, more: bool) -> RenderableType:
    """What there is of each, and whether there are others behind them."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("document", "title"):
        table.add_column(name, overflow="fold", min_width=8, max_width=40, style="cyan" if name == "document" else None)
    table.add_column("chunks", justify="right", no_wrap=True)
    for name in ("state", "taken in"):
        table.add_column(name, no_wrap=True)
    table.add_column("metadata", overflow="ellipsis", no_wrap=True, max_width=48)
    for each in found:
        state = "" if each["state"] == "live" else f"{each['state']} {each['error'] or ''}".strip()
        about = json.dumps(each["metadata"], ensure_ascii=False)
        words = (each["id"], each["title"], f"{each['chunks']:,}", state, each["created_at"][:19], about)
        table.add_row(*map(Text, words))
    return Group(table, Text("… and more: --limit says how many.")) if more else table


def collections(found: Sequence[Answer]) -> RenderableType:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("collection", style="cyan", overflow="fold", min_width=10)
    for name in ("documents", "pending", "failed", "chunks", "index"):
        table.add_column(name, justify="right", no_wrap=True)
    words = ["encoder", "reranker", *(["trouble"] if any(each["trouble"] for each in found) else [])]
    for name in words:
        table.add_column(name, overflow="fold")
    for each in found:
        counts = [f"{each[name]:,}" for name in ("documents", "pending", "failed", "chunks")]
        size = f"{each['index_bytes'] / 1e6:,.1f} MB"
        table.add_row(Text(each["name"]), *counts, size, *(Text(each[name] or "") for name in words))
    return table


def collection(found: Answer) -> RenderableType:
    """All there is to know of one."""
    table = Table.grid(padding=(0, 2))
    flat = {name: value for name, value in found.items() if name not in NESTED and value is not None}
    for name, value in (flat | found["recipe"]).items():
        table.add_row(Text(_label(name), "bold"), Text(_plain(value), overflow="fold"))
    if standby := found["standby"]:
        counts = ", ".join(f"{standby[name]:,} {name}" for name in ("behind", "pending", "failed"))
        table.add_row(Text("standby", "bold"), Text(f"{standby['name']}: {counts}", overflow="fold"))
    for each in found["calibrations"]:
        told = each["trouble"] or each["advice"] or "calibrated"
        table.add_row(Text(f"{each['mode']} scores", "bold"), Text(told, overflow="fold"))
    return table


def _label(name: str) -> str:
    return {"title": "titles", "late": "token vectors"}.get(name, name.replace("_", " "))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _where(hit: Answer) -> Iterator[Text]:
    """The hit's document, and the page and headings that it stands under."""
    yield Text(hit["document_id"], "cyan")
    page = f"page {hit['page']}" if "page" in hit else ""
    page += f" to {hit['last_page']}" if "last_page" in hit else ""
    if place := ", ".join(part for part in (page, hit.get("heading", "")) if part):
        yield Text(place)


def _told(hit: Answer, query: str) -> Text:
    """The hit's title and the part of its text where most of the query's words are."""
    words = list(dict.fromkeys(re.findall(r"\w{3,}", query)))
    title = Text(hit["title"] + "\n", "bold") if hit["title"] else Text()
    text = Text(snippet(hit["text"], words))
    text.highlight_words(words, "yellow", case_sensitive=False)
    return title + text


def snippet(text: str, words: Iterable[str]) -> str:
    flat = " ".join(text.split())
    if len(flat) <= SNIPPET:
        return flat
    starts = [0, *(each.start() for each in re.finditer(r"(?<=[.!?] )\S", flat) if each.start() < len(flat) - 40)]
    patterns = [re.compile(re.escape(word), re.IGNORECASE) for word in words]
    best = max(starts, key=lambda start: sum(bool(each.search(flat, start, start + SNIPPET)) for each in patterns))
    part = flat[best : best + SNIPPET]
    return ("… " if best else "") + part + ("…" if best + SNIPPET < len(flat) else "")


def _foot(answer: Answer) -> RenderableType:
    return Group(_timings(answer), Text(_summary(answer), "dim"), Text(answer.get("advice", ""), "yellow", end=""))


def _timings(answer: Answer) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("milliseconds", style="dim")
    for name in (*answer["timings"], "total"):
        table.add_column(name, justify="right", no_wrap=True)
    laps = answer["timings"].values()
    table.add_row("queue", *(_ms(lap["queue"]) for lap in laps), "")
    table.add_row("compute", *(_ms(lap["compute"]) for lap in laps), _ms(answer["total_ms"]))
    return table


def _summary(answer: Answer) -> str:
    seen = ", ".join(f"{stage} {amount}" for stage, amount in answer["truncated"].items())
    models, late = answer["models"], " (then its time was up)" if "degraded" in answer else ""
    sparse = f", sparse encoder {models['sparse']}" if "sparse" in models else ""
    return (
        f"{answer['candidates']} candidates, {answer['reranked']} reranked{late}; truncated: {seen}\n"
        f"encoder {models['encoder']}{sparse}, reranker {models['reranker'] or 'not asked'}"
    )


def _thought(thought: Answer | None) -> str:
    """A stage's score of a hit and, beneath it, its place there, if the stage found it; nothing if it was not asked."""
    return f"{_short(thought['score'])}\n#{thought['rank'] or '-'}" if thought else ""


def _short(score: float) -> str:
    return f"{score:.3f}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}"
