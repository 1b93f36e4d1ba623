"""A real winnow process, started, asked, killed and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO

import httpx

from loadtest.service import free_port, inherited

PATIENCE = 60.0


class Process:
    """`winnow serve` on a free port, with fake models and data in a folder that outlives it."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        self._data_dir = data_dir
        self.errors: IO[bytes] | None = None
        """Where its log goes; by default where ours goes."""
        self.environment: dict[str, str] = {}
        """What it is given beside its settings."""
        self._settings = {"ENCODER": "fake:512", "RERANKER": "fake", "LOG_LEVEL": "error"} | settings
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(timeout=PATIENCE)
        self.port = 0

    def start(self) -> None:
        self.port = port = free_port()
        environment = inherited() | {f"WINNOW_{name}": str(value) for name, value in self._settings.items()}
        environment |= {"WINNOW_PORT": str(port), "WINNOW_DATA_DIR": str(self._data_dir)} | self.environment
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=self.errors
        )
        self.client.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)

    def await_ready(self) -> None:
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, f"winnow ended with exit code {self._process.returncode}"
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            sleep(0.05)
        raise AssertionError(f"not ready after {PATIENCE} seconds: {self.client.get('/readyz').text}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)

    def kill(self) -> None:
        """As a power cut would, as far as the process is concerned."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As an operator would; returns the exit code."""
        return self._end(signal.SIGTERM)

    def end_by_itself(self) -> int:
        """Wait until it does; returns the exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def _end(self, how: signal.Signals) -> int:
        self.send(how)
        return self.end_by_itself()

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.client.close()
