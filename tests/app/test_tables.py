"""Answers of the service as people see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from app.terminal import tables
from tests.app.serving import documents, fakes, serving


def shown(answer: Any, query: str, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(tables.hits(answer, query))
    return captured.get()


async def test_hits_that_the_deadline_left_unread_have_an_empty_cell_where_others_have_a_score(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(20))
        answer = await service.search("topic of many words")
    for hit in answer["hits"][4:]:
        del hit["stages"]["rerank"]
    for hits in (answer["hits"], answer["hits"][::-1]):
        table = shown(answer | {"hits": hits}, "topic").splitlines()
        (at,) = [line.index("rerank") for line in table if "score" in line]
        cells = [line[at : at + len("rerank")].strip() for line in table if "topic " in line]
        assert sorted(map(bool, cells)) == [False] * 6 + [True] * 4, "\n".join(table)


async def test_in_a_narrow_terminal_no_word_of_a_hit_is_cut_off(tmp_path: Path) -> None:
    text = "Rivers carry dissolved salts into the sea; the water evaporates and the salts stay."
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "sea", "text": text})
        answer = await service.search("salts")
    answer["hits"][0] |= {"relevance": 0.5, "page": 2}
    words = shown(answer, "salts", 80).split()
    assert set(f"sea page 2 {text}".split()) <= set(words), words
