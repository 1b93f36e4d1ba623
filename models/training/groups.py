"""Mined groups: a query, its answer, and passages that look like answers and are not."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.training.errors import TrainingError
from models.training.lines import files_of, read_lines


@dataclass(frozen=True, slots=True)
class Group:
    """A query with its answer first, its negatives behind, and the first stages' opinion of each."""

    source: str
    query: str
    passages: list[str]
    dense: list[float]
    """Cosine of query and passage."""
    lexical: list[float]
    """Share of the query's BM25 weight that the passage carries: 0 to 1."""

    @property
    def answer(self) -> str:
        return self.passages[0]

    def without_negatives(self, texts: Container[str]) -> Group:
        """The same, but that none of these texts stands behind the answer."""
        kept = [at for at, text in enumerate(self.passages) if at == 0 or text not in texts]
        dense, lexical = ([scores[at] for at in kept] for scores in (self.dense, self.lexical))
        return Group(self.source, self.query, [self.passages[at] for at in kept], dense, lexical)

    @property
    def line(self) -> str:
        """As it stands in a file."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_groups(path: Path) -> list[Group]:
    """The groups of a mined file, or of a folder of them."""
    groups = [parse_group(row, place) for file in files_of(path) for place, row in read_lines(file)]
    if not groups:
        raise TrainingError(f"There are no groups in {path}: mine some with `winnow mine`.")
    return groups


def parse_group(row: Mapping[str, Any], place: str) -> Group:
    """One line; what is wrong with it is said with its place."""
    if "passages" not in row:
        raise TrainingError(
            f"{place} has no negatives with scores: a reranker learns from mined groups. Run `winnow mine` first."
        )
    query, passages = row.get("query"), row["passages"]
    scores: list[Any] = [row.get("dense"), row.get("lexical")]
    if not isinstance(query, str) or not _is_list_of(str, passages) or len(passages) < 2:
        raise TrainingError(f"{place} is not a mined group: it needs a `query` and two `passages` or more.")
    if not all(_is_list_of((int, float), each) and len(each) == len(passages) for each in scores):
        raise TrainingError(f"{place} needs a number for each passage in `dense` and in `lexical`: mine it again.")
    return Group(str(row.get("source", "")), query, passages, row["dense"], row["lexical"])


def _is_list_of(kind: type | tuple[type, ...], value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)
