"""The child's side of the sandbox: gives up what it does not need, does its one task, says how it went.

    python -P -m app.files.child '{"task": "module:function", "arguments": [], "memory_bytes": 1, "seconds": 1,
                                  "service": 1}'

The file comes as standard input, the answer goes to standard output. The kernel holds the limits and, where it lets
users make namespaces, keeps the network away. The audit hook refuses in every case; it binds Python code alone, which
readers are made of, but for lxml's parser.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
from importlib import import_module
from typing import IO, Any

from app.files.types import Unreadable

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
LINUX = sys.platform == "linux"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.", "os.kill",
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.", "ftplib.", "smtplib.", "urllib.",
)  # fmt: skip


class Forbidden(BaseException):
    """No Exception, so that no reader goes on as if nothing had been."""


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a reader prints is no answer
    _limit(asked["memory_bytes"], asked["seconds"])
    _leave_the_network()
    _die_with(asked["service"])
    with os.fdopen(0, "rb", closefd=False) as file:
        answer = _answer(asked["task"], file, asked["arguments"])
    answers.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))
    answers.flush()
    os._exit(0)


def _answer(task: str, file: IO[bytes], arguments: list[Any]) -> dict[str, Any]:
    try:
        module, name = task.split(":")
        function = getattr(import_module(module), name)
        sys.addaudithook(_refuse)
        return {"done": function(file, *arguments)}
    except Unreadable as error:
        return {"refused": str(error), "passing": error.passing}
    except Forbidden as error:
        return {"refused": f"was stopped: {error}"}
    except MemoryError:
        return {"starved": True}


def _limit(memory_bytes: int, seconds: float) -> None:
    """Write no file, dump no memory, take no more than a share of the rest."""
    _lower(resource.RLIMIT_CPU, math.ceil(seconds), spare=1)  # killed at once, it would look like one out of memory
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    if LINUX:  # macOS holds no process to a limit of memory
        _lower(resource.RLIMIT_AS, memory_bytes)


def _lower(what: int, most: int, spare: int = 0) -> None:
    """Where there is something to spare, the kernel ends a process at the first limit and kills it at the second."""
    _, held = resource.getrlimit(what)
    least, last = (each if held == resource.RLIM_INFINITY else min(each, held) for each in (most, most + spare))
    resource.setrlimit(what, (least, last))


def _leave_the_network() -> None:
    """Into a namespace of its own that has none; containers often forbid it, and then the audit hook remains."""
    if LINUX:
        ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)


def _die_with(service: int) -> None:
    """Last, since the kernel forgets it where a process becomes another user, as in a namespace."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != service:  # it is gone already
        os._exit(1)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED) or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES):
        raise Forbidden(f"it tried {event}, which reading a file does not need")


if __name__ == "__main__":
    main()
