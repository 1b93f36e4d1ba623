from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from app.errors import Invalid, NotFound
from app.stores.keys import KeyFile, split
from tests.app.disks import synced


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "folder" / "keys.json")


def test_where_there_is_no_file_there_are_no_keys(file: KeyFile) -> None:
    assert file.read() == ()
    assert file.mark() is None


def test_a_key_opens_with_its_own_secret_alone_and_until_it_is_revoked(file: KeyFile) -> None:
    key, shown = file.create("app", ["search"], ["a"], 100)
    _, other = file.create("other", ["search"], [], None)
    assert shown.startswith(f"winnow_{key.id}_")
    id_, secret = split(shown) or ("", "")
    assert id_ == key.id
    assert key.opens_with(secret)
    assert not key.opens_with(secret[:-1])
    assert not key.opens_with((split(other) or ("", ""))[1])
    revoked = file.revoke("app")
    assert not revoked.opens_with(secret)
    assert [(each.name, each.revoked_at is None) for each in file.read()] == [("app", False), ("other", True)]


def test_the_file_has_no_secret_and_is_for_its_owner_alone(file: KeyFile) -> None:
    _, shown = file.create("app", ["search"], [], None)
    _, _, secret = shown.split("_", 2)
    assert secret not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_key_that_is_shown_is_on_disk(file: KeyFile) -> None:
    """As is the end of one that was revoked."""
    file.create("app", ["search"], [], None)
    with synced(file.path.parent) as told:
        file.create("other", ["search"], [], None)
        file.revoke("app")
    assert told == ["sync keys.partial", "keys.partial becomes keys.json", f"sync {file.path.parent.name}"] * 2


def test_a_change_changes_the_mark(file: KeyFile) -> None:
    file.create("app", ["search"], [], None)
    before = file.mark()
    file.create("other", ["search"], [], None)
    assert file.mark() != before


def test_keys_that_are_made_at_once_are_all_there(file: KeyFile) -> None:
    threads = [threading.Thread(target=file.create, args=(f"k{i}", ["search"], [], None)) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {key.name for key in file.read()} == {f"k{i}" for i in range(8)}


def test_a_key_is_revoked_by_its_id_where_names_are_not_enough(file: KeyFile) -> None:
    first, _ = file.create("app", ["search"], [], None)
    file.create("app", ["search"], [], None)
    with pytest.raises(NotFound, match="2 keys are called 'app'"):
        file.revoke("app")
    assert file.revoke(first.id).id == first.id
    file.revoke("app")
    with pytest.raises(NotFound, match="no key 'app'"):
        file.revoke("app")


DAMAGED = {
    "empty": "",
    "cut short": '{"format": 1, "keys": [',
    "no keys": '{"format": 1}',
    "a newer format": '{"format": 2, "keys": []}',
    "a field that is not known": '{"format": 1, "keys": [], "more": 1}',
    "a scope that is not known": '{"format": 1, "keys": [{"id": "0123456789ab", "name": "a", "hash": "%s", '
    '"scopes": ["root"], "created_at": ""}]}' % ("0" * 64),
    "a hash that is none": '{"format": 1, "keys": [{"id": "0123456789ab", "name": "a", "hash": "", "scopes": '
    '["search"], "created_at": ""}]}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.path.write_text(content)
    with pytest.raises(Invalid, match="damaged"):
        file.read()
    with pytest.raises(Invalid, match="damaged"):
        file.create("app", ["search"], [], None)
    assert file.path.read_text() == content


def test_a_file_with_one_id_twice_is_damaged(file: KeyFile) -> None:
    file.create("app", ["search"], [], None)
    content = json.loads(file.path.read_text())
    content["keys"] *= 2
    file.path.write_text(json.dumps(content))
    with pytest.raises(Invalid, match="same id"):
        file.read()


def test_a_file_that_everybody_may_write_is_refused(file: KeyFile) -> None:
    file.create("app", ["search"], [], None)
    file.path.chmod(0o666)
    with pytest.raises(Invalid, match="chmod 600"):
        file.read()


@pytest.mark.parametrize("presented", ["", "none", "winnow_", "winnow_abc", "sk_0123_x"])
def test_what_is_no_key_of_ours_has_no_id(presented: str) -> None:
    assert split(presented) is None
