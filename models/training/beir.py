"""A folder in BEIR's layout as pairs: corpus.jsonl, queries.jsonl, and what qrels/train.tsv says answers what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.training.errors import TrainingError
from models.training.lines import open_text, read_lines

JUDGEMENTS = Path("qrels") / "train.tsv"
"""Those of other splits are for measuring, not for training."""


def is_beir(path: Path) -> bool:
    """Whether it is such a folder."""
    return (path / JUDGEMENTS.parent).is_dir()


def beir_corpus(folder: Path) -> Path:
    """The file with its passages."""
    return _file(folder, "corpus.jsonl")


def beir_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row of a pair for each judgement above 0, with its place; those without query or passage are left out."""
    passages = {str(row.get("_id")): row for _, row in read_lines(beir_corpus(folder))}
    queries = {str(row.get("_id")): row.get("text") for _, row in read_lines(_file(folder, "queries.jsonl"))}
    for place, query, passage in _judgements(_file(folder, str(JUDGEMENTS))):
        if query in queries and passage in passages:
            row = passages[passage]
            texts = {"positive": row.get("text"), "title": row.get("title"), "positive_id": passage}
            yield place, {"query": queries[query], "source": folder.resolve().name} | texts


def _judgements(file: Path) -> Iterator[tuple[str, str, str]]:
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            cells = line.rstrip("\n").split("\t")
            if not any(cells) or (number == 1 and not cells[-1].isdigit()):
                continue
            if len(cells) != 3 or not cells[2].lstrip("-").isdigit():
                raise TrainingError(f"{file}:{number} must have query-id, corpus-id and score, with tabs between them.")
            if int(cells[2]) > 0:
                yield f"{file}:{number}", cells[0], cells[1]


def _file(folder: Path, name: str) -> Path:
    for found in (folder / name, folder / f"{name}.gz"):
        if found.is_file():
            return found
    raise TrainingError(f"{folder} has no {name} (nor {name}.gz): a folder with qrels needs it to be trained on.")
