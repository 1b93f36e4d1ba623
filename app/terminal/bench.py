"""What commands that run models themselves share: a workbench, bars while it works, and sentences when it can't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EACCES, EISDIR
from importlib.util import find_spec
from os import W_OK, access, strerror
from pathlib import Path

import apsw
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from app.errors import Invalid, WinnowError
from app.quality.cache import Cache
from app.quality.workbench import Workbench
from app.service.models import ACCELERATOR_BATCH, CPU_BATCH
from app.settings import Settings
from app.terminal.client import UNUSABLE, Failure, stderr
from models.types import ModelError, ModelOptions

NEEDED = ("ir_measures", "jinja2")


@contextmanager
def opened(settings: Settings, cache: Path | None) -> Iterator[Workbench]:
    """A workbench by the settings; without a folder nothing is kept."""
    options = ModelOptions(
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        runtime=settings.runtime,
        conversions=settings.conversions,
        cache=settings.model_cache,
        offline=settings.offline,
        prompts=settings.prompts,
    )

    def batch_tokens(device: str) -> int:
        return settings.batch_tokens or (CPU_BATCH if device == "cpu" else ACCELERATOR_BATCH)

    kept = Cache(cache)
    try:
        yield Workbench(options, kept, track, batch_tokens, settings.query_reserve)
    finally:
        kept.close()


@contextmanager
def track(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar while something takes its time, gone when it is done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=stderr, transient=True, disable=not stderr.is_terminal
    ) as bars:
        task = bars.add_task(what, total=total)
        yield lambda steps: bars.advance(task, steps)


def write(path: Path, content: bytes) -> None:
    """A file for a person, in a folder that need not be there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def check_writable(*paths: Path | None) -> None:
    """Find out before hours of work that a file can't be written, not after."""
    for path in filter(None, paths):
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(EISDIR, strerror(EISDIR))
            if not access(path if path.exists() else path.parent, W_OK):
                raise PermissionError(EACCES, strerror(EACCES))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let a path that can't be written to end the command with a sentence."""
    try:
        yield
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}.", UNUSABLE) from error


@contextmanager
def as_failures(cache: Path | None = None) -> Iterator[None]:
    """Let whatever a user can have got wrong end the command with a sentence."""
    try:
        yield
    except Invalid as error:
        faults = [f"  {fault.pointer} {fault.detail}" for fault in error.faults]
        raise Failure("\n".join([str(error), *faults]), UNUSABLE) from error
    except (WinnowError, ModelError) as error:
        raise Failure(str(error), UNUSABLE) from error
    except apsw.Error as error:
        raise Failure(
            f"The cache in {cache} can't be used: {error}. Name another folder, or use none.", UNUSABLE
        ) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'A file'} can't be read or written: {error.strerror}.", UNUSABLE) from error


def check_extra() -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise Failure(f"This needs {', '.join(missing)}: pip install -c constraints.txt -e '.[evaluate]'", UNUSABLE)
