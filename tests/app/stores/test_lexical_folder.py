"""A lexical index on disk: what is damaged in any way is refused, never searched."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.stores import lexical_files, lexical_folder
from app.stores.lexical import TantivyIndex
from app.stores.snapshot import Unusable
from app.types import Wording
from tests.app.disks import synced

LIVING = 28


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with several segments, one of them with deletions."""
    folder = tmp_path_factory.mktemp("lexical") / "index"
    index = lexical_folder.create(folder, "english")
    for first in (1, 11, 21):
        index.apply([Wording(n, n, f"cat number {n}") for n in range(first, first + 10)])
    index.apply([Wording(31, 5, None), Wording(32, 15, None)])
    assert lexical_folder.save(index, folder, "english") == 32
    index.close()
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def opened(folder: Path) -> TantivyIndex:
    found = lexical_folder.load(folder, "english")
    assert isinstance(found, TantivyIndex)
    return found


def test_it_opens_as_it_was_saved(folder: Path) -> None:
    index = opened(folder)
    assert (len(index), index.sequence) == (LIVING, 32)
    assert len(index.search("cat", 100)) == LIVING
    assert sorted(index.chunks.tolist()) == [n for n in range(1, 31) if n not in (5, 15)]


def test_how_far_it_has_come_is_on_disk_before_it_takes_the_place_of_what_was_known(folder: Path) -> None:
    index = opened(folder)
    with synced(folder) as told:
        lexical_folder.save(index, folder, "english")
    assert told == ["sync winnow.partial", f"winnow.partial becomes {lexical_folder.MANIFEST}", f"sync {folder.name}"]


def test_one_that_was_built_anew_has_its_place_on_disk(folder: Path) -> None:
    fresh = folder.rename(folder.with_name("fresh"))
    with synced(folder.parent) as told:
        moved = lexical_folder.move(fresh, folder, "english", 32)
    assert told == [f"fresh becomes {folder.name}", f"sync {folder.parent.name}"]
    assert (len(moved), moved.sequence) == (LIVING, 32)


def test_what_was_committed_after_the_manifest_is_there_and_is_seen_again(folder: Path) -> None:
    """As a crash leaves it: the log is replayed over it."""
    index = opened(folder)
    index.apply([Wording(33, 33, "cat number 33")])
    index.close()
    again = opened(folder)
    assert (len(again), again.sequence) == (LIVING + 1, 32)
    again.apply([Wording(33, 33, "cat number 33"), Wording(34, 34, "dog")])
    assert (len(again), again.sequence) == (LIVING + 2, 34)


def test_a_commit_that_was_cut_short_can_be_made_again(folder: Path) -> None:
    """It takes the same names as before, and tantivy writes over no file."""
    before = folder.parent / "before"
    shutil.copytree(folder, before)
    index = opened(folder)
    index.apply([Wording(33, 7, None)])
    index.close()
    for file in folder.glob("*.del"):
        shutil.copy(file, before)
    (before / ".tmpAbCdEf").write_bytes(b"half a note")
    again = opened(before)
    again.apply([Wording(33, 7, None)])
    assert len(again) == LIVING - 1
    assert not list(before.glob(".tmp*"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from app.stores import lexical_folder
from app.types import Wording

index, errors = lexical_folder.load(Path(sys.argv[1]), "english"), []
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for _ in range(2):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        index.apply([Wording(n, n, f"bread number {n}") for n in range(100, 600)])
    except OSError as error:
        errors.append(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    index.apply([Wording(index.sequence + 1, index.sequence + 1, "another cat")])
print(len(errors), len(index), len(index.search("bread", 10)))
"""


def test_an_error_of_a_full_disk_that_somebody_keeps_does_not_keep_the_next_writer_out(folder: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["2", str(LIVING + 2), "0"], run.stderr


def test_files_that_a_commit_cut_short_left_behind_do_no_harm(folder: Path) -> None:
    (folder / "0123456789abcdef0123456789abcdef.idx").write_bytes(b"half")
    assert len(opened(folder)) == LIVING


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / lexical_folder.MANIFEST).unlink(),
        lambda folder: (folder / lexical_files.SEGMENTS).unlink(),
        lambda folder: (folder / lexical_files.SEGMENTS).write_text("{}"),
        lambda folder: next(folder.glob("*.term")).unlink(),
    ],
    ids=["no folder", "no manifest", "no segments", "empty segments", "a file is missing"],
)
def test_what_is_not_whole_is_refused(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    assert isinstance(lexical_folder.load(folder, "english"), Unusable)


def test_an_index_of_another_language_is_refused(folder: Path) -> None:
    assert lexical_folder.load(folder, "german") == Unusable("it was made by other rules, or for another language")


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_or_a_cut_anywhere_is_refused_or_shows_in_the_number_of_chunks(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.stat().st_size)
    file = chance.choice(files)
    content = bytearray(file.read_bytes())
    if chance.random() < 0.5:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        del content[chance.randrange(len(content)) :]
    file.write_bytes(content)

    found = lexical_folder.load(folder, "english")

    if isinstance(found, TantivyIndex) and len(found) == LIVING:
        assert file.name == lexical_files.SEGMENTS  # such as the text of a field that nothing depends on
        assert len(found.search("cat", 100)) == LIVING
