"""Chunk: documents to spans that fit all models whole, counted in the models' own tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from app.errors import Fault, InvalidDocuments, InvalidRecipe
from app.stages.markdown import NONE, Cutter, Outline, outline
from app.types import Chunk, Document, Place, Reading, Recipe
from models.types import BiEncoder, Ids, Reranker, SparseEncoder

JOINT = 2
"""Tokens that the line break between title and text may take."""

WINDOW = 32
"""Characters that a splitter sees at once, for each token of a chunk: several chunks, whatever the language."""

STEM = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
"""Between the headings in force at a chunk, outermost first."""

Spans = list[tuple[int, str, str]]
"""Where each begins, what its readers are told of its place in front of it, and its text."""


class Chunker:
    """Splits at the largest natural boundaries that fit: paragraphs, sentences, words; in Markdown its headings, and
    tables, lists and blocks of code as wholes. What the reranker will read of a chunk is made to count it, and kept.
    Safe in many threads.
    """

    def __init__(
        self,
        recipe: Recipe,
        encoder: BiEncoder,
        reranker: Reranker,
        query_reserve: int,
        sparse: SparseEncoder | None = None,
    ) -> None:
        encoders: list[BiEncoder | SparseEncoder] = [encoder, *([sparse] if sparse else [])]
        check_recipe(recipe, encoders, reranker, query_reserve)
        self._recipe = recipe
        self._reranker = reranker
        self._tokenizers = _distinct(reranker.tokenizer, *(encoder.tokenizer for encoder in encoders))
        self._prompt = len(reranker.read([""])[0])

    def split(self, document: Document) -> list[Chunk]:
        """Most documents fit whole, which one count tells; to find that out the splitter would count several times."""
        title = document.title if self._recipe.title != "never" else ""
        marks = outline(document.text) if document.format == "markdown" else Outline([], [], [])
        whole = document.text.strip()
        (chunk,) = self._chunks(document, marks, title, [(document.text.index(whole), "", whole)])
        if chunk.tokens <= self._recipe.chunk_tokens:
            return [chunk]
        spans = self._spans(document.text, marks, self._recipe.chunk_tokens - self._title_tokens(title))
        return self._chunks(document, marks, title, spans)

    def _chunks(self, document: Document, marks: Outline, title: str, spans: Spans) -> list[Chunk]:
        texts = [self._read(title, ahead, text, ordinal) for ordinal, (_, ahead, text) in enumerate(spans)]
        made, mark = self._reranker.read(texts), self._reranker.tokenisation
        places = [_place(document, marks, start, start + len(span)) for start, _, span in spans]
        return [
            Chunk(start, start + len(span), text, tokens, place, Reading(mark, ids))
            for (start, _, span), text, tokens, place, ids in zip(
                spans, texts, self._sizes(texts, made), places, made, strict=True
            )
        ]

    def _spans(self, text: str, marks: Outline, room: int) -> Spans:
        if marks.blocks:
            return self._structured(text, marks, room)
        return [(start, "", part) for start, part in _parts(self._splitter(room), text, room)]

    def _structured(self, text: str, marks: Outline, room: int) -> Spans:
        """Spans of whole blocks, each read with the headings above it; a table's parts with its header as well."""
        trails, reserve = self._trails(marks, room // 4)
        joint = self._count(["\n\n"])[0]
        spans = Cutter(text, room - reserve, joint, self._count, self._cut_block).cut(marks.blocks)
        return [
            (each.start, _lines(trails[marks.above(each.start)], each.lead), text[each.start : each.end])
            for each in spans
        ]

    def _trails(self, marks: Outline, most: int) -> tuple[dict[int, str], int]:
        """What is read of the headings in force at each, and the tokens kept free for it. The inner ones say more."""
        wanted = {at: marks.titles(at) for at in range(len(marks.headings))}
        held = {NONE: ("", 0)}
        while wanted:
            texts = [STEM.join(titles) for titles in wanted.values()]
            told = zip(wanted, texts, self._count(texts), strict=True)
            held |= {at: (text, size) for at, text, size in told if size + JOINT <= most}
            wanted = {at: titles[1:] for at, titles in wanted.items() if at not in held}
        reserve = max(size for _, size in held.values()) + JOINT
        return {at: text for at, (text, _) in held.items()}, min(reserve, most)

    def _cut_block(self, text: str, room: int) -> list[tuple[int, str]]:
        room = max(room, 1)
        return list(_parts(self._markdown(room), text, room))

    def _read(self, title: str, ahead: str, text: str, ordinal: int) -> str:
        titled = title and (ordinal == 0 or self._recipe.title == "every")
        return _lines(title if titled else "", ahead, text)

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
        return tokens + JOINT

    def _count(self, texts: list[str]) -> list[int]:
        """Tokens of each text, by the tokenizer that makes most of it."""
        return self._sizes(texts, self._reranker.read(texts))

    def _sizes(self, texts: list[str], made: Sequence[Ids]) -> list[int]:
        """The same where it is known what the reranker makes of them."""
        counts = [[len(ids) - self._prompt for ids in made]] + [
            [len(each.ids) for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
            for tokenizer in self._tokenizers[1:]
        ]
        return [max(each) for each in zip(*counts, strict=True)]

    def _splitter(self, capacity: int) -> TextSplitter:
        """Given a tokenizer in place of a callback it would keep a copy, of some megabytes."""
        return TextSplitter.from_callback(self._size, capacity, self._overlap(capacity))

    def _markdown(self, capacity: int) -> MarkdownSplitter:
        return MarkdownSplitter.from_callback(self._size, capacity, self._overlap(capacity))

    def _size(self, text: str) -> int:
        return self._count([text])[0]

    def _overlap(self, capacity: int) -> int:
        return min(self._recipe.overlap_tokens, capacity // 2)


def check_recipe(
    recipe: Recipe, encoders: Sequence[BiEncoder | SparseEncoder], reranker: Reranker, query_reserve: int
) -> None:
    """Refuse chunks that the models could not read whole."""
    faults = [
        Fault("/recipe/chunk_tokens", f"is {recipe.chunk_tokens}; {encoder.name} reads at most {encoder.capacity}")
        for encoder in encoders
        if recipe.chunk_tokens > encoder.capacity
    ]
    if recipe.chunk_tokens > reranker.capacity - query_reserve:
        most = reranker.capacity - query_reserve
        detail = f"is {recipe.chunk_tokens}; {reranker.name} reads at most {most} beside a query of {query_reserve}"
        faults.append(Fault("/recipe/chunk_tokens", detail))
    if recipe.overlap_tokens > recipe.chunk_tokens // 2:
        faults.append(Fault("/recipe/overlap_tokens", f"must be at most half of chunk_tokens ({recipe.chunk_tokens})"))
    if faults:
        raise InvalidRecipe("The models can't read chunks of this recipe.", faults)


def _parts(splitter: TextSplitter | MarkdownSplitter, text: str, room: int) -> Iterator[tuple[int, str]]:
    """What the splitter makes of the text, a window at a time: it looks for words as far as it sees, for each chunk
    again, which is hours for a long text of letters without spaces. The last part of a window begins the next.
    """
    start, width, done = 0, room * WINDOW, 0
    while True:
        found = [(start + at, part) for at, part in splitter.chunk_indices(text[start : start + width])]
        fresh = [(at, part) for at, part in found if at + len(part) > done]
        if start + width >= len(text):
            yield from fresh
            return
        if len(fresh) < 2:
            width *= 2
            continue
        yield from fresh[:-1]
        start, width, done = fresh[-1][0], room * WINDOW, fresh[-2][0] + len(fresh[-2][1])


def _lines(*parts: str) -> str:
    """Those that say anything, one beneath the other."""
    return "\n".join(part for part in parts if part)


def _place(document: Document, marks: Outline, start: int, end: int) -> Place:
    heading = STEM.join(marks.titles(marks.heading_at(start)))
    if not document.pages:
        return Place(heading=heading)
    return Place(bisect_right(document.pages, start), bisect_right(document.pages, end - 1), heading)


def _distinct(*tokenizers: Tokenizer) -> list[Tokenizer]:
    return list({tokenizer.to_str(): tokenizer for tokenizer in tokenizers}.values())
