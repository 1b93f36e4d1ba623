"""A service under test: its processes, started on free ports, waited for, and stopped with all of their children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import httpx

START_SECONDS = 180.0
STOP_SECONDS = 20.0
LOG_LINES = 5


class Unavailable(Exception):
    """A peer can't be measured on this machine; the log says more."""

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(f"{reason}; the log is {log}")


@dataclass(frozen=True, slots=True)
class Command:
    """One process of a service, and where it says that it can be asked."""

    words: Sequence[str | Path]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    pids: list[int]
    ready_seconds: float


@contextmanager
def running(commands: Sequence[Command], folder: Path, log: Path) -> Iterator[Running]:
    """All processes of a service, one after the other as each is ready, until the end of the block."""
    processes: list[subprocess.Popen[bytes]] = []
    began = monotonic()
    with log.open("wb") as written:
        try:
            for command in commands:
                processes.append(_start(command, folder, written.fileno()))
                _await_ready(command.ready, processes, log)
            yield Running([process.pid for process in processes], monotonic() - began)
        finally:
            for process in reversed(processes):
                _stop(process)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def inherited() -> dict[str, str]:
    """This process's environment, less whatever sets up another service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}


def _start(command: Command, folder: Path, output: int) -> subprocess.Popen[bytes]:
    """In a group of its own, so that it can be ended with its children."""
    return subprocess.Popen(
        [str(word) for word in command.words],
        cwd=folder,
        env={**inherited(), "HF_HUB_OFFLINE": "1", **command.environment},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _await_ready(url: str, processes: Sequence[subprocess.Popen[bytes]], log: Path) -> None:
    deadline = monotonic() + START_SECONDS
    with httpx.Client(timeout=START_SECONDS) as client:
        while monotonic() < deadline:
            for process in processes:
                if process.poll() is not None:
                    ended = f"ended at its start with exit code {process.returncode}"
                    raise Unavailable(f"{ended}: {_last_words(log)}", log)
            with suppress(httpx.TransportError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            sleep(0.05)
    raise Unavailable(f"not ready after {START_SECONDS:.0f} s", log)


def _last_words(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").split("\n")[-LOG_LINES:]).strip(" /")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):  # whatever is left of its group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)
