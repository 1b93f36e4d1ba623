"""One run of a command: its plan, the folder it works in, and the place its result appears at, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from models.training.beir import JUDGEMENTS
from models.training.errors import TrainingError
from models.training.lines import content_hash, files_of
from models.training.settings import UNBINDING, Settings, check, flag, flags, values

if sys.platform != "win32":
    import fcntl

Result = TypeVar("Result")

ROOM = "Make room there, and run the same command again to go on."

PLAN, LOCK = "plan.json", "lock"
"""What a run that has done nothing yet has in its folder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides what a run computes."""

    command: str
    given: list[str]
    """The files and folders as they were named."""
    data: Mapping[str, str]
    """SHA-256 of each file, by the path it was named with."""
    models: Mapping[str, str]
    """Fingerprint of each model it starts from, by the name it was given; of one with another part, by that too."""
    settings: Mapping[str, Any]
    flags: list[str]
    """The settings that differ from their defaults, as they are typed."""

    @classmethod
    def of(cls, command: str, paths: list[Path], models: Mapping[str, str], settings: Settings) -> Plan:
        """Reads what is to be read, to know it again."""
        check(settings)
        files = [file for path in paths for file in [*files_of(path), *path.glob(f"{JUDGEMENTS}*")]]
        return cls(
            command,
            [str(path) for path in paths],
            {str(file): content_hash(file) for file in files},
            dict(models),
            values(settings),
            flags(settings),
        )

    def differences(self, other: Plan) -> list[str]:
        """What keeps a run of the one from going on as the other."""
        names = [each.name for each in fields(self) if each.name not in ("settings", "flags")]
        settings = [
            f"{flag(name)} was {value}, now {other.settings.get(name)}"
            for name, value in self.settings.items()
            if name not in UNBINDING and value != other.settings.get(name)
        ]
        return [f"other {name}" for name in names if getattr(self, name) != getattr(other, name)] + settings


class Run:
    """Works in `OUTPUT.partial`, which becomes `OUTPUT` at the end; begun again, it goes on where it stopped."""

    def __init__(self, output: Path, plan: Plan) -> None:
        self.output = output.absolute()
        self.plan = plan
        self.folder = self.output.with_name(f"{self.output.name}.partial")
        refuse_to_overwrite(self.output)
        self.resumed = self._resumes()
        self.folder.mkdir(parents=True, exist_ok=True)
        _hold(self.folder)
        write_whole(self._plan_file, _json(plan))

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """The answer of a piece of work, which is done once however often the run is interrupted."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            write_whole(file, json.dumps(work()))
        return json.loads(file.read_text(encoding="utf-8"))

    def finish(self, write: Callable[[Path], Result]) -> Result:
        """Lets the result be written beside and moves it to its place in one step."""
        result = self.folder / "result"
        if result.is_dir():
            shutil.rmtree(result)
        result.unlink(missing_ok=True)
        try:
            found = write(result)
        except SafetensorError as error:
            raise TrainingError(f"{result} can't be written: {error}. {ROOM}") from error
        refuse_to_overwrite(self.output)
        result.rename(self.output)
        shutil.rmtree(self.folder)
        return found

    @property
    def _plan_file(self) -> Path:
        return self.folder / PLAN

    def _resumes(self) -> bool:
        if not self.folder.exists():
            return False
        try:
            before = Plan(**json.loads(self._plan_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(f"{self.folder} is in the way: move it, or name another output.") from error
        differences = before.differences(self.plan)
        if differences and {each.name for each in self.folder.iterdir()} - {PLAN, LOCK}:
            raise TrainingError(
                f"{self.folder} holds an unfinished run that can't go on like this: {'; '.join(differences)}. "
                "Run it as before to finish it, or remove that folder to begin anew."
            )
        return not differences  # of a run that could not begin, as with data that can't be read, nothing else is left


def _hold(folder: Path) -> None:
    """Until this process ends: two that write checkpoints into one folder would ruin them."""
    if sys.platform != "win32":
        try:
            fcntl.lockf(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise TrainingError(f"Another run works in {folder}: wait for it, or name another output.") from None


def refuse_to_overwrite(output: Path) -> None:
    """Stops a run before it starts, not after an hour, when its place is taken."""
    if output.exists():
        raise TrainingError(f"{output} exists: name a new one or remove it.")


def write_whole(file: Path, text: str) -> None:
    """Writes a file that is never seen by half."""
    partial = file.with_name(f"{file.name}.new")
    partial.write_text(text, encoding="utf-8")
    partial.rename(file)


def _json(plan: Plan) -> str:
    return json.dumps({each.name: getattr(plan, each.name) for each in fields(plan)}, indent=2) + "\n"
