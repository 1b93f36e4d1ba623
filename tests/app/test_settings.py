from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, so that no winnow.toml of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WINNOW_CONFIG", raising=False)
    return tmp_path


def test_every_setting_has_a_default_and_says_what_it_is_for() -> None:
    Settings()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert not field.is_required(), name


def test_the_environment_sets_what_a_file_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_PORT", "9000")
    monkeypatch.setenv("WINNOW_DATA_DIR", "/srv/winnow")
    monkeypatch.setenv("WINNOW_OFFLINE", "true")
    settings = Settings()
    assert (settings.port, settings.data_dir, settings.offline) == (9000, Path("/srv/winnow"), True)


def test_a_file_in_the_working_directory_is_read(elsewhere: Path) -> None:
    (elsewhere / "winnow.toml").write_text('port = 9001\nencoder = "some/model"\n')
    assert (Settings().port, Settings().encoder) == (9001, "some/model")


def test_the_environment_may_name_another_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "winnow.toml").write_text("port = 9001")
    (elsewhere / "other.toml").write_text("port = 9002")
    monkeypatch.setenv("WINNOW_CONFIG", str(elsewhere / "other.toml"))
    assert Settings().port == 9002


def test_a_flag_beats_the_environment_and_that_beats_the_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "winnow.toml").write_text('port = 9001\nhost = "file"\nencoder = "file"')
    monkeypatch.setenv("WINNOW_PORT", "9002")
    monkeypatch.setenv("WINNOW_HOST", "environment")
    settings = Settings(port=9003)
    assert (settings.port, settings.host, settings.encoder) == (9003, "environment", "file")


def test_an_unknown_key_in_the_file_is_refused(elsewhere: Path) -> None:
    (elsewhere / "winnow.toml").write_text("prot = 9001")
    with pytest.raises(ValidationError, match="prot"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 0), ("port", 70_000), ("max_top_k", 0), ("bulk_share", 1.0), ("precision", "int4"), ("index_m", 1),
     ("log_level", "loud"), ("search_timeout", 0), ("chunk_tokens", "many")],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if field.annotation is float])
def test_no_setting_is_endless(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A timeout of that kind ended the service when it was to stop."""
    monkeypatch.setenv(f"WINNOW_{name.upper()}", value)
    with pytest.raises(ValidationError, match=f"(?s){name}.*(finite|greater|less)"):
        Settings()


def test_settings_do_not_change_once_they_are_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # mypy knows as well
