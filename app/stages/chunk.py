"""Chunk: documents to spans that fit both models whole, counted in the models' own tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from app.errors import Fault, InvalidDocuments, InvalidRecipe
from app.types import Chunk, Document, Recipe
from models.types import BiEncoder, Reranker

JOINT = 2
"""Tokens that the line break between title and text may take."""

STEP = 8
"""Titles are counted in steps, so that documents with titles of about one length share a splitter."""


class Chunker:
    """Splits at the largest natural boundaries that fit: paragraphs, sentences, words. Safe in many threads."""

    def __init__(self, recipe: Recipe, encoder: BiEncoder, reranker: Reranker, query_reserve: int) -> None:
        check_recipe(recipe, encoder, reranker, query_reserve)
        self._recipe = recipe
        self._tokenizers = _distinct(encoder.tokenizer, reranker.tokenizer)
        self._splitter: Callable[[int], TextSplitter] = lru_cache(maxsize=64)(self._new_splitter)

    def split(self, document: Document) -> list[Chunk]:
        title = document.title if self._recipe.title != "never" else ""
        room = self._recipe.chunk_tokens - self._title_tokens(title)
        spans = self._spans(document.text, room)
        reads = [self._read(title, text, ordinal) for ordinal, (_, text) in enumerate(spans)]
        counts = self._count(reads)
        return [
            Chunk(start, start + len(text), read, tokens)
            for (start, text), read, tokens in zip(spans, reads, counts, strict=True)
        ]

    def _spans(self, text: str, room: int) -> list[tuple[int, str]]:
        """Most documents fit whole, which one count tells; to find that out the splitter would count several times."""
        whole = text.strip()
        if self._count([whole])[0] <= room:
            return [(text.index(whole), whole)]
        return self._splitter(room).chunk_indices(text)

    def _read(self, title: str, text: str, ordinal: int) -> str:
        titled = title and (ordinal == 0 or self._recipe.title == "every")
        return f"{title}\n{text}" if titled else text

    def _title_tokens(self, title: str) -> int:
        if not title:
            return 0
        (tokens,) = self._count([title])
        most = self._recipe.chunk_tokens // 2
        if tokens + JOINT > most:
            raise InvalidDocuments(
                "A title is too long to stand in front of a chunk.",
                [Fault("/title", f"has {tokens} tokens; at most {most - JOINT} fit: move the rest into the text")],
            )
        return min(-(-(tokens + JOINT) // STEP) * STEP, most)

    def _count(self, texts: list[str]) -> list[int]:
        """Tokens of each text, by the tokenizer that makes more of it."""
        counts = [
            [len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
            for tokenizer in self._tokenizers
        ]
        return [max(each) for each in zip(*counts, strict=True)]

    def _new_splitter(self, capacity: int) -> TextSplitter:
        overlap = min(self._recipe.overlap_tokens, capacity // 2)
        if len(self._tokenizers) == 1:
            return TextSplitter.from_huggingface_tokenizer(self._tokenizers[0], capacity, overlap)
        return TextSplitter.from_callback(lambda text: self._count([text])[0], capacity, overlap)


def check_recipe(recipe: Recipe, encoder: BiEncoder, reranker: Reranker, query_reserve: int) -> None:
    """Refuse chunks that the models could not read whole."""
    faults = []
    if recipe.chunk_tokens > encoder.capacity:
        faults.append(
            Fault("/recipe/chunk_tokens", f"is {recipe.chunk_tokens}; {encoder.name} reads at most {encoder.capacity}")
        )
    if recipe.chunk_tokens > reranker.capacity - query_reserve:
        most = reranker.capacity - query_reserve
        detail = f"is {recipe.chunk_tokens}; {reranker.name} reads at most {most} beside a query of {query_reserve}"
        faults.append(Fault("/recipe/chunk_tokens", detail))
    if recipe.overlap_tokens > recipe.chunk_tokens // 2:
        faults.append(Fault("/recipe/overlap_tokens", f"must be at most half of chunk_tokens ({recipe.chunk_tokens})"))
    if faults:
        raise InvalidRecipe("The models can't read chunks of this recipe.", faults)


def _distinct(*tokenizers: Tokenizer) -> list[Tokenizer]:
    return list({tokenizer.to_str(): tokenizer for tokenizer in tokenizers}.values())
