"""Snapshots: taken whole and right, or refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from app.settings import Settings
from app.stores import snapshot
from app.stores.hnsw import HnswIndex, Truth
from app.stores.snapshot import MANIFEST, Unusable
from app.types import Change, ChunkIds
from tests.app.disks import synced

DIMENSIONS = 24
SETTINGS = Settings(index_m=8, index_ef_construction=50, index_ef=64, exact_below=0)
SHORT = SETTINGS.model_copy(update={"index_dimensions": 8})

Vectors = NDArray[np.float32]


def vectors(count: int, seed: int = 0) -> Vectors:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS))
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def empty(settings: Settings = SETTINGS, dimensions: int = DIMENSIONS, truth: Truth | None = None) -> HnswIndex:
    return HnswIndex(dimensions, 8, 50, 64, 0, graph_dimensions=settings.graph_dimensions(dimensions), truth=truth)


def filled(count: int = 400, settings: Settings = SETTINGS) -> HnswIndex:
    """With every tenth chunk gone."""
    index = empty(settings)
    index.apply([Change(n, n, vector) for n, vector in enumerate(vectors(count), 1)])
    index.apply([Change(count + n, chunk, None) for n, chunk in enumerate(range(10, count, 10), 1)])
    return index


def all_but(*gone: int) -> Truth:
    """What is in the truth: of the chunks of `filled` all but these."""

    def look(chunks: ChunkIds) -> tuple[ChunkIds, Vectors]:
        there = chunks[~np.isin(chunks, gone)]
        return there, vectors(400)[there - 1]

    return look


def taken(
    folder: Path, fingerprint: str = "abc", settings: Settings = SETTINGS, truth: Truth | None = None
) -> HnswIndex:
    index = snapshot.load(folder, fingerprint, empty(settings, truth=truth), settings)
    assert isinstance(index, HnswIndex), index
    return index


def refused(folder: Path, fingerprint: str = "abc", dimensions: int = DIMENSIONS, settings: Settings = SETTINGS) -> str:
    answer = snapshot.load(folder, fingerprint, empty(settings, dimensions), settings)
    assert isinstance(answer, Unusable)
    return answer.reason


def alike(one: HnswIndex, other: HnswIndex) -> bool:
    pairs = [(one.search(query, 30), other.search(query, 30)) for query in vectors(10, seed=1)]
    sizes = (len(one), one.deleted, one.sequence) == (len(other), other.deleted, other.sequence)
    return sizes and all(np.array_equal(a.chunks, b.chunks) for a, b in pairs)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def index_file(folder: Path) -> Path:
    (path,) = folder.glob("*.hnsw")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    snapshot.write(filled(), tmp_path / "docs", "abc")
    return tmp_path / "docs"


def flip(path: Path, offset: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def change_manifest(folder: Path, **changes: object) -> None:
    """Sealed anew, as if another version of Winnow had written it."""
    manifest = snapshot.Manifest.model_validate_json((folder / MANIFEST).read_text())
    text = manifest.model_copy(update=changes).sealed().model_dump_json()
    (folder / MANIFEST).write_text(text)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    index = filled()
    assert snapshot.write(index, tmp_path / "a" / "b", "abc") == index.sequence
    loaded = taken(tmp_path / "a" / "b")
    assert alike(loaded, index)
    assert (len(loaded), loaded.deleted) == (361, 39)


def test_a_graph_of_short_vectors_has_the_rest_of_them_from_the_truth(tmp_path: Path) -> None:
    index = filled(settings=SHORT)
    snapshot.write(index, tmp_path, "abc")
    loaded = taken(tmp_path, settings=SHORT, truth=all_but())
    assert alike(loaded, index)
    assert index_file(tmp_path).stat().st_size == filled().file_size - 400 * 4 * (DIMENSIONS - 8)


def test_what_is_gone_from_the_truth_is_gone_from_a_graph_of_short_vectors(tmp_path: Path) -> None:
    """The log says so too, a moment later: both ways lead to the same."""
    index, gone = filled(settings=SHORT), [1, 2, 399]
    snapshot.write(index, tmp_path, "abc")
    loaded = taken(tmp_path, settings=SHORT, truth=all_but(*gone))
    for each in (index, loaded):
        each.apply([Change(1000 + n, chunk, None) for n, chunk in enumerate(gone)])
        each.apply([Change(2000, 2000, vectors(1, seed=5)[0])])
    assert alike(loaded, index)
    assert not set(gone) & set(loaded.search(vectors(1)[0], 359).chunks.tolist())


def test_another_length_in_the_graph_asks_for_a_new_one(folder: Path) -> None:
    assert "24 dimensions, not 8" in refused(folder, settings=SHORT)


def test_an_empty_index_is_written_and_read(tmp_path: Path) -> None:
    snapshot.write(HnswIndex(DIMENSIONS, 8, 50, 64, 0), tmp_path, "abc")
    assert len(taken(tmp_path)) == 0


def test_all_of_a_snapshot_is_on_disk_before_it_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    with synced(tmp_path) as told:
        snapshot.write(filled(50), tmp_path, "abc")
    index = index_file(tmp_path).name
    assert told == [
        "sync index.partial",
        "sync manifest.partial",
        f"index.partial becomes {index}",
        f"sync {tmp_path.name}",
        f"manifest.partial becomes {MANIFEST}",
        f"sync {tmp_path.name}",
    ]


def test_a_second_snapshot_takes_the_place_of_the_first(folder: Path) -> None:
    index, first = taken(folder), index_file(folder)
    index.apply([Change(1000, 1000, vectors(1, seed=3)[0])])
    snapshot.write(index, folder, "abc")
    assert not first.exists()
    assert files(folder) == sorted([MANIFEST, index_file(folder).name])
    assert alike(taken(folder), index)


def test_writing_the_same_again_is_no_loss(folder: Path) -> None:
    index = taken(folder)
    snapshot.write(index, folder, "abc")
    snapshot.write(index, folder, "abc")
    assert alike(taken(folder), index)


def test_the_manifest_says_what_the_snapshot_holds(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    expected = {"format": 1, "count": 361, "deleted": 39, "sequence": 439, "dimensions": DIMENSIONS, "m": 8}
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["file"] == index_file(folder).name


def test_no_snapshot_is_a_reason(tmp_path: Path) -> None:
    assert "no manifest.json" in refused(tmp_path)
    assert "no manifest.json" in refused(tmp_path / "nowhere")


def test_a_missing_index_file_is_a_reason(folder: Path) -> None:
    name = index_file(folder).name
    index_file(folder).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("kept", [0, 1, 95, 4000, -1])
def test_a_cut_index_file_is_refused(folder: Path, kept: int) -> None:
    path = index_file(folder)
    path.write_bytes(path.read_bytes()[:kept])
    assert "bytes instead of" in refused(folder)


@pytest.mark.parametrize("seed", range(25))
def test_a_flipped_bit_in_the_index_file_is_refused(folder: Path, seed: int) -> None:
    path, rng = index_file(folder), np.random.default_rng(seed)
    flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
    assert "checksum" in refused(folder)


def test_a_flipped_bit_in_the_manifest_is_refused(folder: Path) -> None:
    """Anywhere: the sequence alone, read wrongly, would lose documents. Blanks between the fields may differ."""
    path, whole = folder / MANIFEST, taken(folder)
    original = path.read_bytes()
    for offset in range(len(original)):
        flip(path, offset, offset % 8)
        answer = snapshot.load(folder, "abc", empty(), SETTINGS)
        assert isinstance(answer, Unusable) or (original[offset : offset + 1].isspace() and alike(answer, whole))
        path.write_bytes(original)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": "one"}', '{"format": 1}', "\x00" * 50])
def test_a_manifest_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    assert "damaged" in refused(folder)


def test_a_snapshot_of_a_later_version_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 2, "segments": []}')
    assert "later version" in refused(folder)


def test_a_snapshot_of_another_model_is_refused(folder: Path) -> None:
    assert "fingerprint" in refused(folder, fingerprint="other")


def test_a_snapshot_of_other_dimensions_is_refused(folder: Path) -> None:
    assert "24 dimensions, not 25" in refused(folder, dimensions=25)


def test_a_manifest_that_does_not_fit_its_index_is_refused(folder: Path) -> None:
    change_manifest(folder, dimensions=25)
    assert "25 dimensions" in refused(folder, dimensions=25)


def test_a_file_outside_the_folder_is_not_opened(folder: Path) -> None:
    change_manifest(folder, file="../../secret.hnsw")
    assert "damaged" in refused(folder)


def test_new_settings_of_the_graph_ask_for_a_new_one(folder: Path) -> None:
    assert "index_m" in refused(folder, settings=Settings(index_m=16, index_ef_construction=50))


def test_a_crash_before_the_commit_leaves_the_snapshot_before(folder: Path) -> None:
    whole = taken(folder)
    (folder / "index.partial").write_bytes(b"half an index")
    (folder / "manifest.partial").write_text('{"format": 1,')
    (folder / "0123456789abcdef.hnsw").write_bytes(b"an index without a manifest")
    assert alike(taken(folder), whole)
    snapshot.write(whole, folder, "abc")
    assert files(folder) == sorted([MANIFEST, json.loads((folder / MANIFEST).read_text())["file"]])


def test_what_a_crash_left_beside_a_snapshot_is_swept_away(folder: Path) -> None:
    whole, before = taken(folder), files(folder)
    for left in ("index.partial", "manifest.partial", "0123456789abcdef.hnsw"):
        (folder / left).write_bytes(b"half an index")
    snapshot.sweep(folder)
    assert files(folder) == before
    assert alike(taken(folder), whole)


def test_a_folder_that_can_not_be_written_raises(tmp_path: Path) -> None:
    (tmp_path / "docs").write_text("not a folder")
    with pytest.raises(OSError, match="docs"):
        snapshot.write(filled(), tmp_path / "docs", "abc")


def test_searches_go_on_while_a_snapshot_is_written(tmp_path: Path) -> None:
    index, done = filled(3000), Event()

    def search() -> int:
        searches = 0
        while not done.is_set():
            assert len(index.search(vectors(1)[0], 20)) == 20
            searches += 1
        return searches

    with ThreadPoolExecutor(2) as threads:
        searching = threads.submit(search)
        for _ in range(5):
            snapshot.write(index, tmp_path, "abc")
        done.set()
        assert searching.result() > 0


FULL_DISK = """
import resource, sys
from pathlib import Path
from app.stores import snapshot
from tests.app.stores.test_snapshot import filled

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    snapshot.write(filled(500), Path(sys.argv[1]), "abc")
except OSError as error:
    print(error)
"""


def test_a_full_disk_raises_and_leaves_the_snapshot_before(folder: Path) -> None:
    """hnswlib itself reports nothing. A limit on file sizes fails its writes as a full disk does."""
    whole, before = taken(folder), files(folder)
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, check=True)
    assert "is the disk full?" in run.stdout
    assert files(folder) == before
    assert alike(taken(folder), whole)
