"""`winnow standby` as a person meets it, against a real service."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from loadtest.process import Process

STORIES = Path("tests/data/stories")
ASKED = 60


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Some of the judged questions about the stories: enough to tell models apart."""
    folder = tmp_path / "questions"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl.gz", "queries.jsonl.gz"):
        (folder / name).symlink_to((STORIES / name).absolute())
    header, *labels = (STORIES / "qrels" / "test.tsv").read_text().splitlines(keepends=True)
    (folder / "qrels" / "test.tsv").write_text("".join([header, *labels[:ASKED]]))
    return folder


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    """A service that holds stories, with fake models that find what shares words with a question."""
    with gzip.open(STORIES / "corpus.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    held = [{"id": row["_id"], "text": row["text"], "title": row["title"]} for row in rows]
    with Process(tmp_path, ENCODER="fake", RERANKER="fake", OBSERVE_SHARE=0.0, QUEUE_SECONDS=600) as running:
        running.await_ready()
        assert running.client.post("/ingest", json={"documents": held}).status_code == 200
        yield running


def standby(service: Process, *arguments: str) -> Result:
    given = ["standby", *arguments, "--url", str(service.client.base_url)]
    ran = CliRunner(env={"COLUMNS": "200"}).invoke(app, given)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran


def encoder(service: Process) -> str:
    found: str = service.client.get("/collections/default").json()["encoder"]
    return found


def test_a_standby_is_begun_shown_switched_to_and_ended(service: Process) -> None:
    none = standby(service, "show")
    assert none.exit_code == 1
    assert "winnow standby begin default" in none.stderr
    begun = standby(service, "begin", "--encoder", "fake:128", "--chunk-tokens", "128")
    assert begun.exit_code == 0, begun.stderr
    said = " ".join(begun.stdout.split())
    assert "name default~standby follows default encoder fake:128" in said
    assert "chunk tokens 128" in said
    assert "encoder fake:128" in " ".join(standby(service, "show").stdout.split())
    assert standby(service, "switch").exit_code == 0
    assert encoder(service) == "fake:128"
    assert standby(service, "switch").exit_code == 0
    assert encoder(service) == "fake"
    assert "is gone" in standby(service, "end", "--yes").stdout
    assert standby(service, "switch").exit_code == 1


def test_a_standby_that_answers_worse_is_not_switched_to(service: Process, questions: Path) -> None:
    worse = ["--encoder", "fake:2", "--reranker", "fake:backwards"]
    assert standby(service, "begin", *worse).exit_code == 0
    refused = standby(service, "switch", "--dataset", str(questions))
    assert refused.exit_code == 1
    assert "Not switched: the standby is worse (nDCG@10 -0." in " ".join(refused.stderr.split())
    assert encoder(service) == "fake"
    assert standby(service, "switch", "--dataset", "tests/data").exit_code == 2


def test_a_standby_that_answers_as_well_is_switched_to(service: Process, questions: Path) -> None:
    assert standby(service, "begin", "--overlap-tokens", "16").exit_code == 0
    done = standby(service, "switch", "--dataset", str(questions))
    assert done.exit_code == 0, done.stderr
    assert "collection=default~standby against base" in done.stdout
    assert service.client.get("/collections/default").json()["recipe"]["overlap_tokens"] == 16
