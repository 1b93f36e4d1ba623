"""What a child may try: each is run in the sandbox by name."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO


def count(file: IO[bytes]) -> int:
    os.write(1, b"noise on the standard output")
    return len(file.read())


def sleep(file: IO[bytes]) -> None:
    time.sleep(3600)


def compute(file: IO[bytes]) -> None:
    while True:
        pass


def eat(file: IO[bytes]) -> None:
    eaten = []
    while True:
        eaten.append(bytearray(2**24))


def call_home(file: IO[bytes]) -> str:
    try:
        socket.create_connection(("127.0.0.1", 9))
    except Exception as error:
        return f"went on after {error!r}"
    return "connected"


def start_a_program(file: IO[bytes]) -> None:
    subprocess.run(["true"])


def fork(file: IO[bytes]) -> None:
    os.fork()


def write(file: IO[bytes], path: str) -> None:
    Path(path).write_text("was here")


def talk(file: IO[bytes]) -> str:
    return "word " * 10**6


def die(file: IO[bytes]) -> None:
    getattr(ctypes.CDLL(None), "raise")(signal.SIGKILL)


def crash(file: IO[bytes]) -> None:
    os.abort()


def leave(file: IO[bytes]) -> None:
    os._exit(0)


def environment(file: IO[bytes]) -> list[str]:
    return sorted(os.environ)


def network(file: IO[bytes]) -> str:
    return os.readlink("/proc/self/ns/net")
