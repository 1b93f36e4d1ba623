"""Where texts and pairs are cut, token by token."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from models.tokens import TextTokenizer
from models.types import Tokens
from tests.models import tiny

NASTY = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            [*tiny.TEXTS, "[SEP]", "</s>", "<mask>", " ", "\n\n", "\u200d", "e\u0301", "\u202eabc", "🏳️‍🌈", "ﬁ", "\x00"]
        ),
    ),
    max_size=5,
).map("".join)
"""Texts that tokenizers trip over: what looks like a special token, joins its neighbour, or is nothing at all."""

START, END, QUERY, TEXT = 1, 2, 5, 7


def word_tokenizer(limit: int) -> TextTokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<s>": START, "</s>": END, "q": QUERY, "t": TEXT}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", START), ("</s>", END)]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    return TextTokenizer(tokenizer, limit)


def pair(query: int, text: int, limit: int) -> tuple[int, int, Tokens]:
    tokenizer = word_tokenizer(limit)
    (tokens,) = tokenizer.pairs("q " * query, tokenizer.contents(["t " * text]))
    ids = tokens.ids.tolist()
    return ids.count(QUERY), ids.count(TEXT), tokens


def test_special_tokens_stand_where_the_tokenizer_puts_them() -> None:
    (single,) = word_tokenizer(20).texts(["t t"])
    assert single.ids.tolist() == [START, TEXT, TEXT, END]
    _, _, tokens = pair(2, 1, 20)
    assert tokens.ids.tolist() == [START, QUERY, QUERY, END, TEXT, END]
    assert tokens.types.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_text_loses_its_end_and_keeps_the_last_special_token() -> None:
    (tokens,) = word_tokenizer(6).texts(["t " * 10])
    assert tokens.ids.tolist() == [START, TEXT, TEXT, TEXT, TEXT, END]
    assert tokens.total == 12
    assert tokens.truncated


def test_a_query_gives_way_to_a_text_down_to_its_floor() -> None:
    assert pair(100, 50, 203)[:2] == (100, 50)
    assert pair(180, 50, 203)[:2] == (150, 50)
    assert pair(180, 136, 203)[:2] == (64, 136)
    assert pair(180, 150, 203)[:2] == (64, 136)


def test_a_text_gives_way_to_a_query_below_the_floor() -> None:
    assert pair(10, 300, 203)[:2] == (10, 190)


def test_in_a_small_model_the_floor_is_half_of_the_room() -> None:
    assert pair(30, 30, 23)[:2] == (10, 10)


def test_a_cut_pair_is_well_formed_and_says_what_it_would_have_taken() -> None:
    _, _, tokens = pair(180, 150, 203)
    assert len(tokens) == 203
    assert tokens.total == 180 + 150 + 3
    assert tokens.ids[[0, 65, 202]].tolist() == [START, END, END]
    assert tokens.types.tolist() == [0] * 66 + [1] * 137


def test_a_pair_that_fits_exactly_is_not_cut() -> None:
    assert not pair(100, 100, 203)[2].truncated
    assert pair(100, 101, 203)[2].truncated


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(query=NASTY, texts=st.lists(NASTY, max_size=3))
def test_texts_that_were_read_apart_make_the_pairs_that_the_tokenizer_itself_makes(
    family: str, query: str, texts: list[str]
) -> None:
    ours, theirs = TextTokenizer(tiny.tokenizer(family), 10_000), tiny.tokenizer(family)
    read = [ids for text in texts for ids in ours.contents([text])]
    for pair, text in zip(ours.pairs(query, read), texts, strict=True):
        expected = theirs.encode(query, text)
        assert (pair.ids.tolist(), pair.types.tolist()) == (expected.ids, expected.type_ids)
        assert not pair.truncated


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_mark_stands_for_the_tokenizer_and_the_prompt_and_not_for_the_limit(family: str) -> None:
    marks = [TextTokenizer(tiny.tokenizer(each), 64).mark() for each in tiny.FAMILIES]
    mine = TextTokenizer(tiny.tokenizer(family), 64)
    assert marks.count(mine.mark()) == 1
    assert len(mine.mark()) == 8
    assert mine.mark("query: ") != mine.mark()
    assert TextTokenizer(mine.tokenizer, 32).mark() == mine.mark()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_threads_share_a_tokenizer_and_each_reads_what_it_would_read_alone(family: str) -> None:
    """A copy for each would take megabytes."""
    shared = TextTokenizer(tiny.tokenizer(family), 64)
    texts = [[f"text {text} of thread {thread}" for text in range(20)] for thread in range(8)]
    alone = [[each.ids.tolist() for each in TextTokenizer(tiny.tokenizer(family), 64).texts(own)] for own in texts]
    with ThreadPoolExecutor(len(texts)) as threads:
        for _ in range(10):
            read = threads.map(shared.texts, texts)
            assert [[each.ids.tolist() for each in own] for own in read] == alone
