"""Reads training pairs from JSON lines and samples them by source."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from models.training.beir import beir_corpus, beir_rows, is_beir
from models.training.errors import TrainingError
from models.training.groups import Group, parse_group
from models.training.lines import files_of, read_lines, stem

TEXTS = ("query", "positive", "positive_id", "title", "source")


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that can be found."""

    source: str
    id: str
    title: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells this passage from all others."""
        return self.source, self.id

    @property
    def titled(self) -> str:
        """The text under its title, as an index may hold it."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage that answers it, and perhaps some that do not."""

    query: str
    passage: Passage
    negatives: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The collection of data the pair comes from."""
        return self.passage.source

    @property
    def title_in_query(self) -> bool:
        """Whether the passage's title would give it away."""
        return self.passage.title.casefold() in self.query.casefold()


Example = TypeVar("Example", Pair, Group)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file or folder, each once, in the order of the files; mined groups and judgements count too."""
    pairs: dict[tuple[str, tuple[str, str]], Pair] = {}
    for place, row, source in _every_row(path):
        pair = _pair(row, place, source)
        pairs.setdefault((pair.query, pair.passage.key), pair)
    if not pairs:
        raise TrainingError(f"There are no pairs in {path}: each line needs a `query` and a `positive`.")
    return list(pairs.values())


def read_passages(path: Path) -> list[Passage]:
    """Passages of a corpus: more to pick hard negatives from. Without `source` they belong to every source."""
    files = [beir_corpus(path)] if is_beir(path) else files_of(path)
    return [_passage(row, place) for file in files for place, row in read_lines(file)]


def read_texts(path: Path) -> dict[str, list[str]]:
    """Texts of a corpus, or those that answer in pairs or groups, each once, by their sources."""
    rows = (
        ((place, row, path.resolve().name) for place, row in read_lines(beir_corpus(path)))
        if is_beir(path)
        else ((place, row, stem(file)) for file in files_of(path) for place, row in read_lines(file))
    )
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for place, row, named in rows:
        passage = _passage(row, place) if "text" in row else _pair(row, place, named).passage
        found[passage.source or named][passage.titled] = None
    if not found:
        raise TrainingError(f"There are no texts in {path}: each line needs a `text`, or a `query` and a `positive`.")
    return {source: list(texts) for source, texts in found.items()}


def sample(examples: Iterable[Example], caps: Mapping[str, int], seed: int) -> dict[str, list[Example]]:
    """The examples by source: all, or of the named sources, in their order, at most so many drawn at random."""
    by_source: dict[str, list[Example]] = {source: [] for source in caps}
    for each in examples:
        if not caps or each.source in caps:
            by_source.setdefault(each.source, []).append(each)
    if missing := [source for source, found in by_source.items() if not found]:
        raise TrainingError(f"--take names {missing[0]!r}, of which there is nothing to train on.")
    draw = random.Random(seed)
    return {
        source: draw.sample(found, min(len(found), caps.get(source, len(found)))) for source, found in by_source.items()
    }


def without_negatives(pairs: Iterable[Pair], texts: Container[str]) -> list[Pair]:
    """The same pairs, but that none of these texts stands among their negatives."""
    return [replace(pair, negatives=tuple(text for text in pair.negatives if text not in texts)) for pair in pairs]


def passage_text(pair: Pair, draw: random.Random) -> str:
    """The passage, half of the time under its title unless that gives it away."""
    return pair.passage.text if pair.title_in_query or draw.random() < 0.5 else pair.passage.titled


def titles_tell_nothing(pairs: Sequence[Pair]) -> bool:
    """False where most queries repeat the title (headings, paper titles): it would give the answer away."""
    return 2 * sum(pair.title_in_query for pair in pairs) < len(pairs)


def given_negative(source: str, text: str) -> Passage:
    """A passage of which only the text is known."""
    return Passage(source, _content_id(text), "", text)


def answers(pairs: Iterable[Pair]) -> dict[str, set[tuple[str, str]]]:
    """Every passage known to answer a query, whatever the query's case."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for pair in pairs:
        found[pair.query.casefold()].add(pair.passage.key)
    return found


def described(examples: Sequence[Pair | Group], noun: str) -> str:
    """The data in a line: `1,200 pairs of 1,100 queries: faq 1,000, tickets 200`."""
    counts = Counter(each.source for each in examples)
    sources = ", ".join(f"{source or 'no source'} {count:,}" for source, count in counts.items())
    return f"{len(examples):,} {noun} of {len({each.query for each in examples}):,} queries: {sources}"


def _every_row(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each row with its place, and the source it is of unless it says another."""
    if is_beir(path):
        yield from ((place, row, path.resolve().name) for place, row in beir_rows(path))
        return
    for file in files_of(path):
        yield from ((place, row, stem(file)) for place, row in _rows(file, alone=path.is_file()))


def _rows(file: Path, *, alone: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, (place, row) in enumerate(read_lines(file)):
        if number == 0 and not alone and "text" in row and "query" not in row:
            return  # a corpus that lies beside the pairs
        yield place, row


def _pair(row: Mapping[str, Any], place: str, file: str) -> Pair:
    if "passages" in row:
        group = parse_group(row, place)
        passage = Passage(group.source or file, _content_id(group.answer), "", group.answer)
        return Pair(group.query, passage, tuple(group.passages[1:]))
    texts = {name: _text(row, name, place) for name in TEXTS}
    for name in ("query", "positive"):
        if not texts[name].strip():
            raise TrainingError(f"{place} has no `{name}`: every pair needs a query and a positive that answers it.")
    negatives = row.get("negatives") or []
    if not isinstance(negatives, list) or not all(isinstance(each, str) for each in negatives):
        raise TrainingError(f"{place} has `negatives` that are not a list of texts.")
    number = texts["positive_id"] or _content_id(texts["positive"])
    passage = Passage(texts["source"] or file, number, texts["title"], texts["positive"])
    return Pair(texts["query"], passage, tuple(negatives))


def _passage(row: Mapping[str, Any], place: str) -> Passage:
    named = {"id": row.get("_id", row.get("id"))} | {name: row.get(name) for name in ("source", "title", "text")}
    texts = {name: _text(named, name, place) for name in named}
    if not texts["text"].strip():
        raise TrainingError(f"{place} has no `text`: a passage needs one, and may have `_id` and `title`.")
    return Passage(texts["source"], texts["id"] or _content_id(texts["text"]), texts["title"], texts["text"])


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and name.endswith("id"):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise TrainingError(f"{place} has a `{name}` that is not a text.")
    return value or ""


def _content_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
