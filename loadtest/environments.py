"""A virtual environment for each peer, made once: its own pinned requirements, and torch as Winnow has it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from loadtest.machine import ROOT
from loadtest.service import Unavailable

PEERS = Path(__file__).parent / "peers"
CONSTRAINTS = ROOT / "constraints.txt"
INSTALL_SECONDS = 1800
STAMP = ".installed"


def environment(requirements: str, folder: Path) -> Path:
    """The interpreter of an environment that has the requirements, made anew where they have changed."""
    wanted = (PEERS / requirements).read_text() + torch_pin() + sys.version
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    stamp, python = folder / STAMP, folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        _install(python, PEERS / requirements, folder.with_name(f"{folder.name}-install.log"))
        stamp.write_text(digest)
    return python


def torch_pin() -> str:
    """The one line of the constraints; any other build of torch may bring gigabytes."""
    return next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))


def _install(python: Path, requirements: Path, log: Path) -> None:
    command: list[str | Path] = [python, "-m", "pip", "install", "-r", requirements, torch_pin()]
    with log.open("wb") as written:
        try:
            subprocess.run(command, stdout=written, stderr=subprocess.STDOUT, check=True, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{requirements.name} can't be installed ({_why(error)})", log) from error


def _why(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"pip ended with exit code {error.returncode}"
    return f"not done in {INSTALL_SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
