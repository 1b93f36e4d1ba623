"""The answers that were paid for, one line a passage: what a run that ended anyhow is taken up from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from models.synthesis.types import NOTHING, Question, Unusable, Usage

if sys.platform != "win32":
    import fcntl

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one passage: its questions, or why there are none."""

    passage: str
    """The passage's fingerprint."""
    id: str
    questions: tuple[Question, ...] = ()
    usage: Usage = NOTHING
    error: str = ""


@dataclass(slots=True)
class Journal:
    """A file of records under the settings that shaped them. A line is written whole or counts as not written."""

    path: Path
    settings: Settings
    answered: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, Record] = field(default_factory=dict)
    spent: Usage = NOTHING
    _file: IO[bytes] | None = field(default=None, init=False)

    def read(self) -> None:
        """Take in what is there; records that were made under other settings are refused."""
        self.answered, self.failed, self.spent = {}, {}, NOTHING
        content = self.path.read_bytes() if self.path.exists() else b""
        head, *lines = _whole(content).splitlines() or [b""]
        if head:
            self._check(_parsed(self.path, 1, head), bool(lines))
        for number, line in enumerate(lines, 2):
            self._count(_record(self.path, number, line))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open it for one process alone, and mend a line that a kill tore."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as self._file:
            _lock(self._file, self.path)
            self.read()
            begun = bool(self.answered or self.failed)
            self._file.seek(0)
            self._file.truncate(len(_whole(self._file.read())) if begun else 0)
            if not begun:
                self._write({"settings": self.settings})
            yield

    def add(self, record: Record) -> None:
        """On disk when this returns."""
        self._write(record)
        self._count(record)

    def _count(self, record: Record) -> None:
        self.spent += record.usage
        if record.error:
            self.failed[record.passage] = record
        else:
            self.failed.pop(record.passage, None)
            self.answered[record.passage] = record

    def _write(self, line: object) -> None:
        assert self._file is not None, "the journal is not open"
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _check(self, head: Any, begun: bool) -> None:
        before = head.get("settings") if isinstance(head, dict) else None
        if not isinstance(before, dict):
            raise Unusable(f"{self.path} is in the way and holds no answers of an earlier run: name another output.")
        changed = [name for name, value in self.settings.items() if before.get(name) != value]
        if changed and begun:
            told = ", ".join(f"{name} was {before.get(name)!r} and is {self.settings[name]!r}" for name in changed)
            raise Unusable(f"{self.path} was begun otherwise: {told}. Give what it was, or name another output.")


def _whole(content: bytes) -> bytes:
    """The lines that were written to their end."""
    return content[: content.rfind(b"\n") + 1]


def _lock(file: IO[bytes], path: Path) -> None:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unusable(f"Another run is writing {path}: wait for it, or name another output.") from None


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unusable(f"{path}:{number} is damaged: {error}. Remove that line, or name another output.") from error


def _record(path: Path, number: int, line: bytes) -> Record:
    fields = _parsed(path, number, line)
    try:
        questions = tuple(Question(**each) for each in fields["questions"])
        return Record(fields["passage"], fields["id"], questions, Usage(**fields["usage"]), fields["error"])
    except (KeyError, TypeError) as error:
        raise Unusable(
            f"{path}:{number} is no record of an answer: remove that line, or name another output."
        ) from error
