"""The machine that measures: what it is, and what processes take of it."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).parent.parent
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""What makes arithmetic of models fast, in the words of Linux."""
SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    cores: int
    flags: tuple[str, ...]
    memory_gib: float
    system: str
    python: str
    commit: str
    load_average: float
    """Processes that wanted to run in the minute before: more than a little, and the figures are worth less."""


def this_machine() -> Machine:
    processor, flags = _processor()
    return Machine(
        processor=processor,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1,
        flags=tuple(flag for flag in FLAGS if flag in flags),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        commit=_commit(),
        load_average=round(psutil.getloadavg()[0], 2),
    )


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name", platform.machine()), set(facts.get("flags", facts.get("Features", "")).split())


def _commit() -> str:
    """With a plus where files differ from it; unknown in a copy without history."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return f"{name}+" if _git("status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    told = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return told.stdout.strip()


def folder_bytes(folder: Path) -> int:
    """What its files hold; those that go while it is looked through do not count."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size


class Meter:
    """What a service takes, all of its processes together: CPU seconds so far, and the most memory at any moment."""

    def __init__(self, roots: list[int]) -> None:
        self._roots = roots
        self._peak = 0
        self._stop = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def cpu_seconds(self) -> float:
        return sum(_cpu_seconds(process) for process in self._processes())

    @property
    def peak_bytes(self) -> int:
        return self._peak

    def resident_bytes(self) -> int:
        """At this moment."""
        return sum(_memory(process) for process in self._processes())

    def __enter__(self) -> Meter:
        self._watching.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self.resident_bytes())

    def _processes(self) -> Iterator[psutil.Process]:
        for pid in self._roots:
            try:
                root = psutil.Process(pid)
                yield from (root, *root.children(recursive=True))
            except psutil.NoSuchProcess:
                continue


def _cpu_seconds(process: psutil.Process) -> float:
    """With those of children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _memory(process: psutil.Process) -> int:
    """Pages that processes share count once where the system can tell; elsewhere once for each."""
    try:
        taken = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(taken, "pss", 0) or taken.rss)
