"""The lexical index follows the truth: over a restart, a crash between two of its steps, and any damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.stores import lexical_files, lexical_folder
from app.stores.snapshot import Unusable
from app.types import Wording
from tests.app.serving import Service, documents, fakes, lose, serving


def _folder(data: Path) -> Path:
    (folder,) = data.glob("indexes/*/lexical")
    return folder


def _index(service: Service) -> int:
    return len(service.engine.collections.shelf("default").indexes.lexical.index)


async def test_it_is_there_again_after_a_restart_without_being_rebuilt(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(30))
        await service.client.delete("/documents/d7")
    before = {file.name for file in _folder(tmp_path).glob("*.term")}
    async with serving(fakes(tmp_path)) as service:
        assert _index(service) == 29
        assert await service.found("3", mode="lexical") == ["d3"]
        assert {file.name for file in _folder(tmp_path).glob("*.term")} == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / lexical_folder.MANIFEST).unlink(),
        lambda folder: (folder / lexical_files.SEGMENTS).write_text("{}"),
        lambda folder: next(folder.glob("*.term")).write_bytes(b"damaged"),
    ],
    ids=["gone", "without a manifest", "without segments", "damaged"],
)
async def test_it_is_rebuilt_from_the_truth_when_it_is_not_whole(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(30))
    damage(_folder(tmp_path))
    async with serving(fakes(tmp_path)) as service:
        assert _index(service) == 30
        assert await service.found("3", mode="lexical") == ["d3"]
    assert "lexical index is rebuilt from the truth" in capsys.readouterr().out


async def test_what_a_crash_left_in_it_that_was_never_published_is_taken_out(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
    stray = lexical_folder.load(_folder(tmp_path), "english")
    assert not isinstance(stray, Unusable)
    stray.apply([Wording(stray.sequence, 99, "a stray topic")])
    stray.close()
    async with serving(fakes(tmp_path)) as service:
        assert _index(service) == 5
        assert await service.found("stray", mode="lexical") == []


async def test_an_index_that_misses_what_the_truth_has_is_rebuilt(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
    folder = _folder(tmp_path)
    short = lexical_folder.load(folder, "english")
    assert not isinstance(short, Unusable)
    short.apply([Wording(short.sequence, 3, None)])
    short.close()
    async with serving(fakes(tmp_path)) as service:
        assert _index(service) == 5
        assert len(await service.found("topic", mode="lexical")) == 5


async def test_the_log_is_kept_for_the_index_that_is_behind(tmp_path: Path) -> None:
    """A manifest from before is as good as a new one: what came after it is still in the log."""
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
    early = (_folder(tmp_path) / lexical_folder.MANIFEST).read_text()
    async with serving(fakes(tmp_path)) as service:
        await service.ingest({"id": "late", "text": "a late topic"})
    (_folder(tmp_path) / lexical_folder.MANIFEST).write_text(early)
    async with serving(fakes(tmp_path)) as service:
        assert _index(service) == 6
        assert await service.found("late", mode="lexical") == ["late"]


async def test_an_index_that_is_newer_than_the_database_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many chunks as the truth has, but others: a document was replaced before the database was put back."""
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
    await lose(tmp_path, {"id": "d3", "text": "lost words"})
    async with serving(fakes(tmp_path)) as service:
        assert _index(service) == 5
        assert await service.found("3", mode="lexical") == ["d3"]
        await service.ingest({"id": "next", "text": "something else"})
        assert await service.found("something else", mode="lexical") == ["next"]
    told = [line for line in capsys.readouterr().out.splitlines() if "lexical index is rebuilt from the truth" in line]
    assert any("changes that the log does not have" in line for line in told)


async def test_dropping_a_collection_removes_its_files(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path)) as service:
        await service.ingest(*documents(5))
        folder = _folder(tmp_path)
        await service.client.delete("/collections/default")
        assert not folder.exists()
