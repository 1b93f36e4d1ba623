"""One task on one file, in a process of its own that has so much time and memory and no network."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from app.files.types import Unreadable

BUSY, GRACE = 3.0, 2.0
"""So many times the processor's seconds may pass by the clock, since others work here too; and some for starting."""

KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")
"""Of the environment; keys and addresses are none of a reader's business."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a task may take, and how long its answer may be."""

    seconds: float
    memory_bytes: int
    answer_bytes: int

    async def run(self, task: str, file: IO[bytes], *arguments: Any) -> Any:
        """What the function `module:name` makes of the file; a task that fails is Unreadable, whatever it did."""
        process = await self._start(task, file, arguments)
        try:
            async with asyncio.timeout(longest(self.seconds)):
                answer = await self._read(process)
                code = await process.wait()
        except TimeoutError:
            raise Unreadable(self._not_done, passing=True) from None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return self._result(answer, code)

    async def _start(self, task: str, file: IO[bytes], arguments: Sequence[Any]) -> asyncio.subprocess.Process:
        limits = {"seconds": self.seconds, "memory_bytes": self.memory_bytes}
        asked = {"task": task, "arguments": arguments, "service": os.getpid()} | limits
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "app.files.child",
                json.dumps(asked),
                stdin=file.fileno(),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in KEPT if name in os.environ} | _quiet(),
                start_new_session=True,
            )
        except OSError as error:  # there may be no more processes, or open files
            raise Unreadable(
                f"found no process that could read it ({error.strerror}): try again", passing=True
            ) from error

    async def _read(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None
        parts, size = [], 0
        while part := await process.stdout.read(65_536):
            size += len(part)
            if size > self.answer_bytes:
                raise Unreadable(f"becomes more than {self.answer_bytes} bytes of text: split it")
            parts.append(part)
        return b"".join(parts)

    def _result(self, answer: bytes, code: int) -> Any:
        if code == -signal.SIGXCPU:
            raise Unreadable(f"took longer than {self.seconds:g} seconds: split it, or raise WINNOW_FILE_SECONDS")
        if code == -signal.SIGKILL:
            raise Unreadable("was given up since its reader was killed: is the machine out of memory?", passing=True)
        if code != 0 or not answer:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise Unreadable(f"made its reader crash ({how}): it is damaged, or needs {self._memory}")
        told = json.loads(answer)
        if told.get("starved"):
            raise Unreadable(f"needs {self._memory}")
        if "refused" in told:
            raise Unreadable(told["refused"], passing=told.get("passing", False))
        return told["done"]

    @property
    def _memory(self) -> str:
        return f"more than {self.memory_bytes} bytes of memory: split it, or raise WINNOW_FILE_MEMORY_BYTES"

    @property
    def _not_done(self) -> str:
        return (
            f"was not done in {longest(self.seconds):g} seconds, of which its reader could work for less than "
            f"{self.seconds:g}: try again when the machine is less busy"
        )


def longest(seconds: float) -> float:
    """How long a task of so many seconds of the processor may take by the clock."""
    return BUSY * seconds + GRACE


def _quiet() -> dict[str, str]:
    """Modules are found where we found them; nothing is compiled to disk, and one thread is enough."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
