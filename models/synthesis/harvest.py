"""From answers to questions worth keeping, and from those to training pairs and an evaluation set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from models.synthesis.corpus import Corpus, fingerprint, wording
from models.synthesis.journal import Record
from models.synthesis.prompt import STYLES
from models.synthesis.questions import fault, spoken
from models.synthesis.types import Question
from models.training.pairs import Passage

DUPLICATE, SURPLUS = "asked before", "more than asked for"
OTHER_STYLE = "other"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the passage that answers it."""

    query: str
    style: str
    passage: Passage


@dataclass(slots=True)
class Harvest:
    """What is kept of the answers, and how many questions each rule dropped."""

    kept: list[Asked] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    barren: int = 0
    """Passages that were answered and have no question left."""


def harvest(passages: Iterable[Passage], answers: Mapping[str, Record], most: int) -> Harvest:
    """The good questions of all passages that were answered, at most so many of each."""
    found, seen = Harvest(), set[str]()
    for passage in passages:
        if record := answers.get(fingerprint(passage)):
            before = len(found.kept)
            for question in record.questions:
                _weigh(question, passage, found, seen, len(found.kept) - before < most)
            found.barren += len(found.kept) == before
    return found


def _weigh(question: Question, passage: Passage, found: Harvest, seen: set[str], room: bool) -> None:
    sound = " ".join(spoken(question.query))
    why = fault(question.query, passage) or (DUPLICATE if sound in seen else None) or (None if room else SURPLUS)
    if why:
        found.dropped[why] += 1
        return
    seen.add(sound)
    style = question.style if question.style in STYLES else OTHER_STYLE
    found.kept.append(Asked(question.query, style, passage))


def write_pairs(asked: Iterable[Asked], model: str, path: Path) -> int:
    """Training pairs, as models.training reads them."""
    return _write_lines(path, (_pair(each, model) for each in asked))


def write_dataset(asked: Sequence[Asked], corpus: Corpus, made: Mapping[str, Any], folder: Path) -> None:
    """An evaluation set as BEIR lays it out: the whole corpus, the questions, and which passages answer them.

    A passage that says the same in another place answers a question as well.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    wanted = {wording(each.passage) for each in asked}
    answers: dict[str, list[str]] = {}
    _write_lines(folder / "corpus.jsonl", _corpus_lines(corpus, wanted, answers))
    names = _names(asked)
    _write_lines(
        folder / "queries.jsonl", ({"_id": name, "text": each.query} for name, each in zip(names, asked, strict=True))
    )
    with replacing(folder / "qrels" / "test.tsv") as file:
        file.write(b"query-id\tcorpus-id\tscore\n")
        for name, each in zip(names, asked, strict=True):
            file.writelines(f"{name}\t{answer}\t1\n".encode() for answer in answers[wording(each.passage)])
    with replacing(folder / "synthesis.json") as file:
        file.write(orjson.dumps(made, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_failed(records: Iterable[Record], path: Path) -> int:
    """The passages that have no questions yet and why; no file when there are none."""
    lines = [{"id": record.id, "error": record.error} for record in records]
    if lines:
        return _write_lines(path, lines)
    path.unlink(missing_ok=True)
    return 0


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there whole or, after a kill, as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _pair(each: Asked, model: str) -> dict[str, str]:
    return {
        "query": each.query,
        "positive": each.passage.text,
        "positive_id": each.passage.id,
        "title": each.passage.title,
        "source": each.passage.source,
        "style": each.style,
        "model": model,
    }


def _corpus_lines(corpus: Corpus, wanted: set[str], answers: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """The lines, while noting on the way which passages have a wanted wording."""
    for passage in corpus:
        if (words := wording(passage)) in wanted:
            answers.setdefault(words, []).append(passage.id)
        yield {"_id": passage.id, "title": passage.title, "text": passage.text}


def _names(asked: Iterable[Asked]) -> list[str]:
    """Ids that stay the same when the set grows."""
    counts, names = Counter[str](), list[str]()
    for each in asked:
        key = fingerprint(each.passage)[:16]
        counts[key] += 1
        names.append(f"{key}-{counts[key]}")
    return names


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    written = 0
    with replacing(path) as file:
        for line in lines:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            written += 1
    return written
