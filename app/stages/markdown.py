"""Markdown as a chunker sees it: headings, and blocks that are kept whole where they fit."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

Kind = Literal["heading", "table", "code", "other"]

Count = Callable[[list[str]], list[int]]
"""Tokens of each text."""

Split = Callable[[str, int], list[tuple[int, str]]]
"""Cuts a block into parts of at most so many tokens, with the offset of each."""

NEWLINE = re.compile(r"\r\n?|\n")
KINDS: dict[str, Kind] = {"heading_open": "heading", "table_open": "table", "fence": "code", "code_block": "code"}
HEAD_LINES = {"table_open": 2, "fence": 1}
"""Lines that each part of a block needs in front to be understood: a table's header, and what language code is in."""

NONE = -1
"""In place of a heading: there is none."""

LONGEST_TITLE = 120
"""Characters of a heading that are shown; more is a paragraph in disguise."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the text that belongs together; it neither begins nor ends with white space."""

    start: int
    end: int
    kind: Kind
    head: int
    """Where the lines in front of which nothing is said end; `start` if there are none."""


@dataclass(frozen=True, slots=True)
class Heading:
    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the text that fits, and the lines of it that are to be read again in front."""

    start: int
    end: int
    tokens: int
    lead: str = ""
    is_heading: bool = False


@dataclass(frozen=True, slots=True)
class Outline:
    """The blocks of a text, which leave out nothing but white space, and its headings."""

    blocks: list[Block]
    headings: list[Heading]
    trails: list[tuple[int, ...]]
    """Of each heading, those in force with it, outermost first, by their places among all."""

    def titles(self, at: int) -> tuple[str, ...]:
        """The headings in force at one, outermost first, with itself."""
        return tuple(self.headings[each].title for each in self.trails[at]) if at != NONE else ()

    def heading_at(self, offset: int) -> int:
        """The last heading that begins here or before."""
        return bisect_right(self.headings, offset, key=lambda heading: heading.start) - 1

    def above(self, offset: int) -> int:
        """The heading that a text from here on stands under and does not begin with."""
        at = self.heading_at(offset)
        if at == NONE or self.headings[at].start != offset:
            return at
        return self.trails[at][-2] if len(self.trails[at]) > 1 else NONE


def outline(text: str) -> Outline:
    lines = [0, *(found.end() for found in NEWLINE.finditer(text)), len(text)]
    blocks: list[Block] = []
    headings: list[Heading] = []
    done = 0
    tokens = _parser().parse(text)
    for token, inside in zip_longest(tokens, tokens[1:]):
        if token.level or token.map is None or token.nesting < 0:
            continue
        first, last = token.map
        start, end = lines[first], lines[min(last, len(lines) - 1)]
        blocks += _trimmed(text, done, start, "other", start)
        head = lines[first + HEAD_LINES[token.type]] if token.type in HEAD_LINES else 0
        blocks += _trimmed(text, start, end, KINDS.get(token.type, "other"), min(head, end))
        if token.type == "heading_open":
            headings += [Heading(blocks[-1].start, int(token.tag[1]), title) for title in _titles(inside)]
        done = max(done, end)
    blocks += _trimmed(text, done, len(text), "other", done)
    return Outline(blocks, headings, _trails(headings))


def _trails(headings: Sequence[Heading]) -> list[tuple[int, ...]]:
    trails: list[tuple[int, ...]] = []
    trail: tuple[int, ...] = ()
    for at, heading in enumerate(headings):
        trail = (*(each for each in trail if headings[each].level < heading.level), at)
        trails.append(trail)
    return trails


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    """Blocks alone: what stands within a line makes no difference here, and costs the most."""
    parser = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
    parser.parse("")  # the first time it compiles its rules, which two threads must not do at once
    return parser


def _trimmed(text: str, start: int, end: int, kind: Kind, head: int) -> Iterator[Block]:
    """The block less white space around it; none if it is nothing else. Code keeps its first line's indentation."""
    inner = text[start:end]
    body = inner.strip()
    if body:
        begin = start if kind == "code" else start + inner.index(body)
        yield Block(begin, start + len(inner.rstrip()), kind, max(begin, head))


def _titles(inside: Token | None) -> Iterator[str]:
    """What a heading says, if it says anything."""
    title = " ".join(inside.content.split()) if inside is not None and inside.type == "inline" else ""
    if title:
        yield title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts a text into spans of whole blocks, as many as fit; only a block that does not fit is divided."""

    text: str
    room: int
    """Most tokens of a span, with its lead."""
    joint: int
    """Tokens that the line breaks between two blocks may take."""
    count: Count
    split: Split

    def cut(self, blocks: Sequence[Block]) -> list[Span]:
        parts: list[Span] = []
        for block, tokens in zip(blocks, self._sizes([(each.start, each.end) for each in blocks]), strict=True):
            if tokens <= self.room:
                parts.append(Span(block.start, block.end, tokens, is_heading=block.kind == "heading"))
                continue
            taken = self._size(_last_headings(parts))
            taken = taken if taken <= self.room // 2 else 0
            parts += (self._by_lines if block.kind in ("table", "code") else self._divided)(block, taken)
        return list(self._gathered(parts))

    def _divided(self, block: Block, taken: int) -> Iterator[Span]:
        """Parts of a block, the first of which leaves room for the headings above it."""
        start = block.start
        if taken:
            ((at, first), *_) = self.split(self.text[start : block.end], self.room - taken - self.joint)
            yield from self._spans([(start + at, start + at + len(first))])
            start += at + len(first)
        if self.text[start : block.end].strip():
            parts = self.split(self.text[start : block.end], self.room)
            yield from self._spans([(start + at, start + at + len(part)) for at, part in parts])

    def _spans(self, parts: Sequence[tuple[int, int]]) -> Iterator[Span]:
        return (Span(*part, tokens) for part, tokens in zip(parts, self._sizes(parts), strict=True))

    def _by_lines(self, block: Block, taken: int) -> Iterator[Span]:
        """As many lines as fit, each time with the block's first ones in front: a table's header, a code's language."""
        lead, ahead = self._lead(block)
        held, room = None, self.room - taken - self.joint
        for line in self._spans(list(_lines(self.text, block.start, block.end))):
            if held is not None and held.tokens + self.joint + line.tokens <= room:
                held = replace(held, end=line.end, tokens=held.tokens + self.joint + line.tokens)
                continue
            if held is not None:
                yield held
                room = self.room
            held = replace(line, tokens=line.tokens + ahead, lead=lead) if lead and line.start >= block.head else line
            if held.tokens > self.room:
                yield from self._divided(Block(line.start, line.end, "other", line.start), 0)
                held = None
        if held is not None:
            yield held

    def _lead(self, block: Block) -> tuple[str, int]:
        """A block's first lines and what they take; none if that is half of a span."""
        lead = self.text[block.start : block.head].strip("\r\n")
        (tokens,) = self.count([lead])
        return (lead, tokens + self.joint) if tokens + self.joint <= self.room // 2 else ("", 0)

    def _gathered(self, parts: Sequence[Span]) -> Iterator[Span]:
        """Neighbours together while they fit. A heading goes with what follows it, and begins a span rather than end
        one that is half full.
        """
        held: list[Span] = []
        for part in parts:
            if held and not self._takes(held, part):
                headings = [] if part.lead else _last_headings(held)
                if len(headings) == len(held) or self._size([*headings, part]) > self.room:
                    headings = []
                yield self._joined(held[: len(held) - len(headings)])
                held = headings
            held.append(part)
        if held:
            yield self._joined(held)

    def _takes(self, held: Sequence[Span], part: Span) -> bool:
        half_full = self._size(held) > self.room // 2 and not held[-1].is_heading
        return not part.lead and not (part.is_heading and half_full) and self._size([*held, part]) <= self.room

    def _size(self, held: Sequence[Span]) -> int:
        return sum(each.tokens + self.joint for each in held) - self.joint if held else 0

    def _sizes(self, parts: Sequence[tuple[int, int]]) -> list[int]:
        """At least one each, so that no span gathers blocks without end: some characters are no token at all."""
        return [max(tokens, 1) for tokens in self.count([self.text[start:end] for start, end in parts])]

    def _joined(self, held: Sequence[Span]) -> Span:
        return Span(held[0].start, held[-1].end, self._size(held), held[0].lead)


def _last_headings(held: Sequence[Span]) -> list[Span]:
    ends = next((i for i in range(len(held), 0, -1) if not held[i - 1].is_heading), 0)
    return list(held[ends:])


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The lines between two offsets, less their ends; empty ones are passed over."""
    for line in re.finditer(r"[^\r\n]+", text[start:end]):
        if line[0].strip():
            yield start + line.start(), start + line.start() + len(line[0].rstrip())
