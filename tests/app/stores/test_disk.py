from __future__ import annotations

import stat
from pathlib import Path

import pytest

from app.errors import NoSpace
from app.stores.disk import write_whole
from app.stores.room import Room
from tests.app.disks import mounted, synced


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.json"


def test_a_file_is_on_disk_before_it_takes_its_place_and_its_place_when_it_is_written(path: Path) -> None:
    with synced(path.parent) as told:
        write_whole(path, "all of it")
    assert told == ["sync notes.partial", "notes.partial becomes notes.json", f"sync {path.parent.name}"]
    assert path.read_text() == "all of it"


def test_what_was_left_by_half_is_in_nobodys_way_nor_is_its_mode(path: Path) -> None:
    path.with_suffix(".partial").write_text("half of what somebody else wrote")
    write_whole(path, "mine", 0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("mine", 0o600)
    assert [each.name for each in path.parent.iterdir()] == ["notes.json"]


def test_no_room_for_another_file_is_no_room(tmp_path: Path) -> None:
    with mounted(tmp_path, "nr_inodes=1") as folder, pytest.raises(NoSpace):
        Room(folder).probe()
