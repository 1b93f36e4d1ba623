"""Small datasets on disk, and a workbench to measure them on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.quality.cache import Cache
from app.quality.workbench import Workbench
from models.fake import FakeReranker
from models.types import BiEncoder, ModelOptions, Reranker, SparseEncoder

HEADER = "query-id\tcorpus-id\tscore\n"

ANIMALS = {
    "lion": "The lion lives in the savanna and hunts in groups at night.",
    "whale": "A whale is a mammal that lives in the sea and breathes air.",
    "owl": "An owl hunts mice at night and turns its head far around.",
    "bee": "A bee collects nectar and makes honey in the hive.",
    "camel": "The camel stores fat in its hump and crosses the desert.",
}
QUESTIONS = {
    "q1": "who hunts mice at night",
    "q2": "mammal that lives in the sea",
    "q3": "who makes honey",
    "q4": "what stores fat in its hump",
}
ANSWERS = {"q1": {"owl": 2, "lion": 1}, "q2": {"whale": 1}, "q3": {"bee": 1}, "q4": {"camel": 1}}


def write(
    folder: Path,
    documents: Mapping[str, str] = ANIMALS,
    queries: Mapping[str, str] = QUESTIONS,
    answers: Mapping[str, Mapping[str, int]] = ANSWERS,
    *,
    zipped: bool = False,
) -> Path:
    """A folder in BEIR's layout."""
    put(
        folder / "corpus.jsonl",
        lines({"_id": name, "title": "", "text": text} for name, text in documents.items()),
        zipped=zipped,
    )
    put(folder / "queries.jsonl", lines({"_id": name, "text": text} for name, text in queries.items()), zipped=zipped)
    rows = [f"{query}\t{name}\t{grade}\n" for query, grades in answers.items() for name, grade in grades.items()]
    put(folder / "qrels" / "test.tsv", HEADER + "".join(rows), zipped=zipped)
    return folder


def put(path: Path, text: str, *, zipped: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def lines(rows: Iterator[object] | list[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Shows nothing."""
    yield lambda steps: None


def bench(
    cache: Path | None = None,
    *,
    encoders: dict[str, BiEncoder] | None = None,
    rerankers: dict[str, Reranker] | None = None,
    sparse_encoders: dict[str, SparseEncoder] | None = None,
) -> Workbench:
    """With fake models, or those that are given."""
    fakes: dict[str, Reranker] = rerankers or {"fake": FakeReranker()}
    opened = encoders or {}, fakes, sparse_encoders or {}
    return Workbench(ModelOptions(), Cache(cache), silent, lambda device: 2048, 64, *opened)
