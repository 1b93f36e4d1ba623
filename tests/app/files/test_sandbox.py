"""Whatever a task on a file does, it ends, and says why."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from app.files.sandbox import Sandbox
from app.files.types import Unreadable

TASKS = "tests.app.files.tasks"
MEGABYTE = 2**20


@pytest.fixture
def file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as made:
        made.write(b"twelve bytes")
        made.flush()
        yield made


def sandbox(seconds: float = 20.0) -> Sandbox:
    return Sandbox(seconds, 256 * MEGABYTE, MEGABYTE)


async def refusal(task: str, file: IO[bytes], *arguments: object, seconds: float = 20.0, passing: bool = False) -> str:
    with pytest.raises(Unreadable) as caught:
        await sandbox(seconds).run(f"{TASKS}:{task}", file, *arguments)
    assert caught.value.passing is passing
    return str(caught.value)


async def test_a_task_reads_the_file_and_answers_whatever_else_it_prints(file: IO[bytes]) -> None:
    assert await sandbox().run(f"{TASKS}:count", file) == 12
    assert await sandbox().run(f"{TASKS}:count", file) == 12, "from the beginning each time"


async def test_a_task_that_gets_nothing_done_is_ended_and_may_fare_better_another_time(file: IO[bytes]) -> None:
    assert "try again when the machine is less busy" in await refusal("sleep", file, seconds=0.1, passing=True)


async def test_so_may_a_task_that_the_system_kills(file: IO[bytes]) -> None:
    assert "was killed" in await refusal("die", file, passing=True)


async def test_so_may_one_where_no_more_files_can_be_opened(file: IO[bytes]) -> None:
    last, before = os.open(os.devnull, os.O_RDONLY), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, before[1]))
    try:
        assert "Too many open files" in await refusal("count", file, passing=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(last)


async def test_a_task_that_computes_for_ever_is_ended(file: IO[bytes]) -> None:
    assert "took longer than 0.5 seconds" in await refusal("compute", file, seconds=0.5)


async def test_a_task_that_eats_memory_is_stopped(file: IO[bytes]) -> None:
    assert "needs more than 268435456 bytes of memory" in await refusal("eat", file)


@pytest.mark.parametrize(
    ("task", "event"),
    [("call_home", "socket."), ("start_a_program", "subprocess.Popen"), ("fork", "os.fork")],
)
async def test_a_task_that_reaches_beyond_its_file_is_stopped_and_the_attempt_named(
    file: IO[bytes], task: str, event: str
) -> None:
    told = await refusal(task, file)
    assert told.startswith("was stopped: it tried ")
    assert event in told


async def test_a_task_can_not_write(file: IO[bytes], tmp_path: Path) -> None:
    assert "was stopped: it tried open" in await refusal("write", file, str(tmp_path / "mark"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("task", ["crash", "leave", "nothing_of_this_name"])
async def test_a_task_that_crashes_is_told_from_one_that_answers(file: IO[bytes], task: str) -> None:
    assert "made its reader crash" in await refusal(task, file)


async def test_an_answer_is_not_read_without_end(file: IO[bytes]) -> None:
    assert "becomes more than 1048576 bytes of text" in await refusal("talk", file)


async def test_secrets_of_the_environment_stay_here(file: IO[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    held = await sandbox().run(f"{TASKS}:environment", file)
    assert "OPENAI_API_KEY" not in held


def namespaces_are_permitted() -> bool:
    return subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True).returncode == 0


async def test_a_task_has_a_network_of_its_own_where_the_kernel_permits(file: IO[bytes]) -> None:
    if not await asyncio.to_thread(namespaces_are_permitted):
        pytest.skip("this kernel lets no user make namespaces")
    assert await sandbox().run(f"{TASKS}:network", file) != os.readlink("/proc/self/ns/net")
