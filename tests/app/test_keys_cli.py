"""Keys as the one who runs the service meets them: commands, a real process, real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from loadtest.process import Process

PATIENCE = 30.0


def winnow(*arguments: object, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"} | environment).invoke(app, [*map(str, arguments)])


def refusal_to_start(data_dir: Path, **settings: str) -> str:
    """What a service says that does not start."""
    environment = {f"WINNOW_{name}": value for name, value in settings.items()}
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve", "--port", "65123", "--data-dir", str(data_dir)],
        env=os.environ | {"COLUMNS": "400"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_without_keys_it_refuses_to_listen_to_others_and_says_what_to_do(tmp_path: Path) -> None:
    told = refusal_to_start(tmp_path, HOST="0.0.0.0")
    assert "winnow keys create" in told
    assert "WINNOW_OPEN=true" in told


def test_with_keys_that_can_not_be_read_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    assert "damaged" in refusal_to_start(tmp_path)


def test_it_listens_to_others_openly_when_told_so_and_warns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Process(tmp_path, HOST="0.0.0.0", OPEN="true", LOG_LEVEL="warning") as service:
        service.await_ready()
        assert service.client.get("/collections").status_code == 200
    assert "whoever reaches this may read and change everything" in capfd.readouterr().err


def test_a_service_with_keys_from_its_first_key_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_AUDIT", str(tmp_path / "audit"))
    created = winnow("keys", "create", "app", "-s", "search,ingest", "--data-dir", tmp_path)
    assert created.exit_code == 0, created.stderr
    assert "not shown again" in created.stderr
    key = created.stdout.strip()
    with Process(tmp_path, HOST="0.0.0.0") as service:
        service.await_ready()
        url = str(service.client.base_url)
        refused = winnow("search", "rings", "--url", url)
        assert (refused.exit_code, "A key is needed" in refused.stderr) == (1, True)
        assert winnow("search", "rings", "--url", url, WINNOW_API_KEY=key).exit_code == 0
        lacking = winnow("collections", "drop", "default", "--yes", "--url", url, WINNOW_API_KEY=key)
        assert "lacks the scope admin" in lacking.stderr

        listed = winnow("keys", "list", "--data-dir", tmp_path).stdout
        assert "app" in listed
        assert key.split("_", 2)[2] not in listed
        assert winnow("keys", "revoke", "app", "--data-dir", tmp_path).exit_code == 0
        deadline = monotonic() + PATIENCE
        while winnow("search", "rings", "--url", url, WINNOW_API_KEY=key).exit_code == 0:
            assert monotonic() < deadline, "a revoked key goes on opening"
            sleep(0.1)
    told = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [(each["action"], each["key"]) for each in told] == [
        ("create key", key.split("_")[1]), ("revoke key", key.split("_")[1])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "app", "-s", "root"], "root is none of search, ingest, admin, metrics"),
        (["create", "app"], "--scope"),
        (["revoke", "nobody"], "no key 'nobody'"),
    ],
)
def test_a_command_that_can_not_be_carried_out_says_why(tmp_path: Path, arguments: list[str], told: str) -> None:
    ended = winnow("keys", *arguments, "--data-dir", tmp_path)
    assert ended.exit_code == 2
    assert told in ended.stderr
    assert not (tmp_path / "keys.json").exists()


def test_a_key_from_the_environment_that_is_none_is_told_and_not_shown() -> None:
    told = winnow("collections", "--url", "http://127.0.0.1:1", WINNOW_API_KEY="sécret")
    assert told.exit_code == 2
    assert "WINNOW_API_KEY is not a key" in told.stderr
    assert "cret" not in told.stderr
