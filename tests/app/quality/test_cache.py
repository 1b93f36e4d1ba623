from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.quality.cache import ASKED, FILE, Cache, key


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_put_is_got_again(tmp_path: Path, kept: bool) -> None:
    cache = Cache(tmp_path if kept else None)
    entries = {key(number): bytes([number % 256]) * number for number in range(3 * ASKED)}
    cache.put(entries)
    assert cache.get([*entries, key("else")]) == entries
    cache.put({key(1): b"new"})
    assert cache.get([key(1)]) == {key(1): b"new"}


def test_a_folder_keeps_it_for_the_next_time(tmp_path: Path) -> None:
    first = Cache(tmp_path / "deep" / "folder")
    first.put({key("a"): b"value"})
    first.close()
    assert Cache(tmp_path / "deep" / "folder").get([key("a")]) == {key("a"): b"value"}


def test_two_evaluations_share_a_folder(tmp_path: Path) -> None:
    one, other = Cache(tmp_path), Cache(tmp_path)
    one.put({key("a"): b"1"})
    other.put({key("b"): b"2"})
    assert one.get([key("a"), key("b")]) == other.get([key("a"), key("b")]) == {key("a"): b"1", key("b"): b"2"}


def test_a_damaged_entry_is_missing_and_the_others_stay(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put({key("a"): b"1234", key("b"): b"5678"})
    cache.close()
    database = apsw.Connection(str(tmp_path / FILE))
    ((value,),) = database.execute("SELECT value FROM entries WHERE key = ?", (key("a"),))
    database.execute("UPDATE entries SET value = ? WHERE key = ?", (value[:-1] + b"5", key("a")))
    database.execute("INSERT INTO entries VALUES (?, x'00')", (key("short"),))
    database.close()
    cache = Cache(tmp_path)
    assert cache.get([key("a"), key("b"), key("short")]) == {key("b"): b"5678"}
    cache.put({key("a"): b"1234"})
    assert cache.get([key("a")]) == {key("a"): b"1234"}


def test_what_is_larger_than_a_row_can_be_is_not_kept_and_the_others_are() -> None:
    cache = Cache(None)
    cache._database.limit(apsw.SQLITE_LIMIT_LENGTH, 1000)
    for size in range(800, 1001):
        cache.put({key(size): bytes(size), key("b", size): b"small"})
        assert cache.get([key("b", size)]) == {key("b", size): b"small"}
    assert cache.get([key(800), key(1000)]) == {key(800): bytes(800)}


@pytest.mark.parametrize("start", [0, 4096])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, start: int) -> None:
    cache = Cache(tmp_path)
    cache.put({key(number): bytes(200) for number in range(2000)})
    cache.close()
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:start] + b"\xff" * 200_000)
    cache = Cache(tmp_path)
    assert cache.get([key(number) for number in range(2000)]) == {}
    cache.put({key("a"): b"1"})
    assert cache.get([key("a")]) == {key("a"): b"1"}


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_have_different_keys(one: list[str], other: list[str]) -> None:
    assert (key(*one) == key(*other)) == (one == other)
