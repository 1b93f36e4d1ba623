"""Markdown is cut along its structure, and read with its headings."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from app.stages.chunk import STEM
from app.stages.markdown import outline
from app.types import Chunk, Document, Recipe
from tests.app.stages.test_chunk import MODELS, chunker, model, titles, words

FAKES = ("fake", "fake")
SMALL = Recipe(chunk_tokens=64, overlap_tokens=8)

TABLE = "| Peak | Height |\n| --- | --- |\n" + "".join(f"| mount {i} | {1000 + i} m |\n" for i in range(40))
CODE = "```python\n" + "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(20)) + "```\n"
LIST = "".join(f"- item {i} of the list\n" for i in range(8))


def cut(text: str, recipe: Recipe = SMALL, title: str = "", pages: tuple[int, ...] = ()) -> list[Chunk]:
    return chunker(FAKES, recipe).split(Document("a", text, title, format="markdown", pages=pages))


@lru_cache
def tokenizer(name: str) -> Tokenizer:
    return model(name).tokenizer


def tokens(text: str, names: tuple[str, str]) -> int:
    """By the tokenizer that makes more of it."""
    return max(len(tokenizer(name).encode(text, add_special_tokens=False).ids) for name in names)


def span(text: str, chunk: Chunk) -> str:
    return text[chunk.start : chunk.end]


line = st.lists(words, min_size=1, max_size=12).map(" ".join)
heading = st.tuples(st.integers(1, 6), line).map(lambda given: f"{'#' * given[0]} {given[1]}")
table = st.lists(line, min_size=1, max_size=30).map(
    lambda rows: "| a | b |\n|---|---|\n" + "\n".join(f"| {row} | x |" for row in rows)
)
code = st.lists(line, max_size=30).map(lambda lines: "```c\n" + "\n".join(lines) + "\n```")
bullets = st.lists(line, min_size=1, max_size=20).map(lambda lines: "\n".join(f"- {each}" for each in lines))
paragraph = st.lists(line, min_size=1, max_size=10).map(". ".join)
anything = st.text(max_size=200) | st.sampled_from(
    ["[x]: http://a b", "> quote\nlazy", "    indented\n\n    code", "***"]
)
gap = st.sampled_from(["\n", "\n\n", "\r\n\r\n", "\n \n", "\r"])
markdown = st.lists(st.tuples(heading | table | code | bullets | paragraph | anything, gap), max_size=20).map(
    lambda parts: "".join(block + after for block, after in parts)
)


@pytest.mark.parametrize("names", [MODELS[0], MODELS[2], MODELS[3]], ids="-".join)
@settings(max_examples=15)
@given(text=markdown.filter(str.strip), title=titles, overlap=st.sampled_from([0, 8, 32]))
def test_chunks_of_markdown_fit_say_where_they_are_and_lose_nothing(
    names: tuple[str, str], text: str, title: str, overlap: int
) -> None:
    recipe = Recipe(chunk_tokens=100, overlap_tokens=overlap)
    chunks = chunker(names, recipe).split(Document("a", text, title if len(title) < 40 else "", format="markdown"))
    covered = 0
    for chunk in chunks:
        assert chunk.text.endswith(span(text, chunk))
        assert span(text, chunk).strip()
        assert chunk.tokens == tokens(chunk.text, names) <= recipe.chunk_tokens
        assert not text[covered : chunk.start].strip(), "text between chunks is lost"
        covered = max(covered, chunk.end)
    assert not text[covered:].strip(), "text behind the last chunk is lost"
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)


def test_a_table_that_does_not_fit_is_cut_between_rows_and_each_part_is_read_with_the_header() -> None:
    text = f"# Mountains\n\nSome are high.\n\n{TABLE}"
    chunks = cut(text)
    assert len(chunks) > 3
    for chunk in chunks[1:]:
        assert chunk.text.startswith("Mountains\n| Peak | Height |\n| --- | --- |\n")
        assert all(row.startswith("| ") and row.endswith(" |") for row in span(text, chunk).splitlines())
    for i in range(40):
        (holds,) = [chunk for chunk in chunks if f"| mount {i} |" in span(text, chunk)]
        assert "| Peak | Height |" in holds.text


def test_what_fits_is_kept_whole() -> None:
    small = "| Peak | Height |\n| --- | --- |\n" + "".join(f"| p{i} | {i} |\n" for i in range(4))
    function = "```python\ndef f(x):\n    return x + 1\n```"
    text = "\n\n".join(["Words and more words. " * 8, small, "Other words. " * 10, LIST, "Last words. " * 12, function])
    spans = [span(text, chunk) for chunk in cut(text)]
    for whole in (small, LIST, function):
        assert sum(whole.strip() in each for each in spans) == 1


def test_code_that_does_not_fit_is_cut_between_lines_and_says_its_language_each_time() -> None:
    text = f"Intro.\n\n{CODE}"
    for chunk in cut(text):
        if "return" in chunk.text:
            assert "```python\n" in chunk.text
            assert all(each in text.splitlines() for each in span(text, chunk).splitlines())


def test_a_heading_is_never_the_end_of_a_chunk() -> None:
    text = "\n\n".join(f"{'#' * (1 + i % 3)} Heading {i}\n\n{'Some words of it. ' * (3 + i % 9)}" for i in range(30))
    for chunk in cut(text):
        assert not span(text, chunk).splitlines()[-1].startswith("#")


def test_chunks_know_the_headings_they_stand_under_and_are_read_with_those_they_do_not_show() -> None:
    text = (
        f"# Sea\n\n{'Water is wide. ' * 10}\n\n## Tides\n\n{'The moon pulls. ' * 40}\n\n# Land\n\n{'Dry it is. ' * 12}"
    )
    chunks = cut(text)
    assert [chunk.place.heading for chunk in chunks] == sorted(
        (chunk.place.heading for chunk in chunks), key=["Sea", f"Sea{STEM}Tides", "Land"].index
    )
    tides = [chunk for chunk in chunks if chunk.place.heading == f"Sea{STEM}Tides"]
    assert len(tides) > 1
    assert tides[0].text.startswith("Sea\n## Tides\n")
    assert all(chunk.text.startswith(f"Sea{STEM}Tides\nThe moon") for chunk in tides[1:])


def test_of_headings_too_long_to_be_read_the_inner_ones_remain() -> None:
    text = f"# {'long ' * 15}\n\n## Inner\n\n{'The moon pulls. ' * 60}"
    last = cut(text)[-1]
    assert last.text.startswith("Inner\nThe moon")
    assert last.place.heading.startswith("long long")


def test_the_title_stands_before_the_headings() -> None:
    text = f"# Sea\n\n{'Water is wide. ' * 60}"
    chunks = cut(text, Recipe(chunk_tokens=64, overlap_tokens=0, title="every"), title="Book")
    assert chunks[0].text.startswith("Book\n# Sea\n")
    assert chunks[-1].text.startswith("Book\nSea\nWater")


def test_chunks_know_their_pages() -> None:
    pages = [f"Page {i}. {'Some words are here. ' * 6}\n\n" for i in range(1, 8)]
    starts = tuple(sum(map(len, pages[:i])) for i in range(7))
    text = "".join(pages)
    for chunk in cut(text, pages=starts):
        shown = span(text, chunk)
        place = chunk.place
        assert place.page is not None
        assert place.last_page is not None
        assert all(f"Page {i}." in shown for i in range(place.page + 1, place.last_page + 1))
        assert text[starts[place.page - 1] :].startswith(f"Page {place.page}.")
    assert cut("short", pages=(0,))[0].place.page == 1


def test_a_plain_document_is_cut_as_ever() -> None:
    text = f"# Sea\n\n{TABLE}"
    plain = chunker(FAKES, SMALL).split(Document("a", text))
    assert all(chunk.place.heading == "" and chunk.text == span(text, chunk) for chunk in plain)


@pytest.mark.parametrize("text", ["#\n", "# \n\n", "   ", "| a |\n|---|", "```", "\t", "[a]: b", "1.", ">"])
def test_odd_beginnings_have_an_outline(text: str) -> None:
    found = outline(text)
    assert "".join(text[block.start : block.end] for block in found.blocks).split() == text.split()


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "> " * 50_000, "- " * 50_000, "|" * 100_000, "# a\n" * 20_000, "*_`" * 40_000, "<a " * 40_000],
    ids=["brackets", "quotes", "lists", "pipes", "headings", "marks", "tags"],
)
def test_hostile_markdown_is_read_in_time(text: str) -> None:
    assert outline(text).blocks
