"""Reads training pairs from JSON lines and samples them by source."""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


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
    """A query and a passage that answers it."""

    query: str
    passage: Passage

    @property
    def source(self) -> str:
        """The collection of data the pair comes from."""
        return self.passage.source

    @property
    def title_in_query(self) -> bool:
        """Whether the passage's title would give it away."""
        return self.passage.title.casefold() in self.query.casefold()


def read_pairs(folder: Path, sources: Iterable[str]) -> list[Pair]:
    """The pairs of the named sources, in the order of the files."""
    return [_pair(row) for name in sources for row in _rows(_named(folder, name))]


def read_passages(path: Path, sources: Iterable[str]) -> list[Passage]:
    """Passages that answer no pair: more to pick hard negatives from."""
    wanted = frozenset(sources)
    return [
        Passage(row["source"], row["id"], row.get("title", ""), row["text"])
        for row in _rows(path)
        if row["source"] in wanted
    ]


def sample(pairs: Iterable[Pair], caps: Mapping[str, int], seed: int) -> dict[str, list[Pair]]:
    """At most the capped number of pairs of each source, drawn at random."""
    by_source: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_source[pair.source].append(pair)
    draw = random.Random(seed)
    return {
        source: draw.sample(found, min(len(found), caps.get(source, len(found)))) for source, found in by_source.items()
    }


def passage_text(pair: Pair, draw: random.Random) -> str:
    """The passage, half of the time under its title unless that gives it away."""
    return pair.passage.text if pair.title_in_query or draw.random() < 0.5 else pair.passage.titled


def open_text(path: Path) -> TextIO:
    """A text file, unpacked on the way when its name ends in .gz."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open("r", encoding="utf-8")


def _named(folder: Path, name: str) -> Path:
    plain = folder / f"{name}.jsonl"
    return plain if plain.exists() else plain.with_suffix(".jsonl.gz")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open_text(path) as lines:
        for line in lines:
            yield json.loads(line)


def _pair(row: Mapping[str, str]) -> Pair:
    passage = Passage(row["source"], row["positive_id"], row.get("title", ""), row["positive"])
    return Pair(row["query"], passage)
