"""`winnow synthesize` as a person and a script meet it: real processes, real files, a real chat endpoint."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from fastapi import Response
from typer.testing import CliRunner

from app.cli import app
from app.quality import dataset
from app.terminal import synthesize
from models.training.pairs import read_pairs
from tests.models.chat_server import ChatServer, Seen, chat_server, good, questions, refusal, said

PATIENCE = 60.0
AMOUNT = 40
KEY = "sk-very-secret-0123456789"


class Told:
    """How a command ended and what it said."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = output
        self.errors = errors


class Desk:
    """A folder with a corpus, and the command that works on it."""

    def __init__(self, folder: Path, server: ChatServer) -> None:
        self.folder = folder
        self.server = server
        self.corpus = folder / "corpus.jsonl"
        self.pairs = folder / "pairs.jsonl"
        self.answers = folder / "pairs.jsonl.answers"
        self.corpus.write_text("".join(passage(n) for n in range(AMOUNT)), encoding="utf-8")

    def arguments(self, *more: object) -> list[str]:
        named = ["synthesize", self.corpus, "--url", self.server.url, "--model", "parrot", "--yes", *more]
        return [*map(str, named)]

    def __call__(self, *more: object, **environment: str) -> Told:
        """Run it here; options that come later win."""
        surroundings = {"COLUMNS": "300", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""} | environment
        ran = CliRunner(env=surroundings).invoke(app, self.arguments(*more))
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return Told(ran.exit_code, ran.stdout, ran.stderr)

    def start(self, *more: object) -> subprocess.Popen[str]:
        """Run it in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", *self.arguments("-o", self.pairs, *more)],
            env=os.environ | {"COLUMNS": "200", "OPENAI_API_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_ctrl_c,
        )

    def await_requests(self, amount: int) -> None:
        deadline = monotonic() + PATIENCE
        while len(self.server.seen) < amount:
            assert monotonic() < deadline, f"only {len(self.server.seen)} requests came"
            sleep(0.005)

    def answered(self) -> list[str]:
        return [each["id"] for each in lines(self.answers)[1:]]


def heed_ctrl_c() -> None:
    """A shell that runs the tests in the background would have their processes ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def passage(n: int) -> str:
    return json.dumps({"_id": f"p{n}", "title": f"animal {n}", "text": f"Facts of number {n} in the zoo."}) + "\n"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with chat_server() as server:
        yield Desk(tmp_path, server)


def slow(seen: Seen) -> Response:
    sleep(0.08)
    return good(seen)


def slowing(seen: Seen) -> Response:
    """So that a signal comes before the last answer, however busy the machine is."""
    sleep(0.08 if seen.number < 10 else 1.0)
    return good(seen)


def test_pairs_for_training_come_out(desk: Desk) -> None:
    told = desk("-o", desk.pairs, OPENAI_API_KEY=KEY)

    assert told.code == 0, told.errors
    assert "40 to ask about" in told.errors
    assert "key from OPENAI_API_KEY" in told.errors
    assert "40 of 40 answered, 0 failed" in told.output
    assert "80 of 80 kept" in told.output
    assert "4,000 in, 1,600 out" in told.output
    assert "80 training pairs" in told.output
    assert f"winnow train encoder {desk.pairs} --output my-encoder" in told.output
    found = read_pairs(desk.pairs)
    assert len(found) == 80
    assert Counter(pair.passage.id for pair in found) == {f"p{n}": 2 for n in range(AMOUNT)}
    assert found[0].source == "pairs"
    assert found[0].passage.title in found[0].query
    assert lines(desk.pairs)[0]["model"] == "parrot"
    assert {header.headers["authorization"] for header in desk.server.seen} == {f"Bearer {KEY}"}


def test_training_and_evaluation_share_no_passage_and_the_set_can_be_evaluated(desk: Desk) -> None:
    told = desk("-o", desk.pairs, "--dataset", desk.folder / "set", "--held-out", 0.3)

    assert told.code == 0, told.errors
    found = dataset.read(desk.folder / "set")
    asked = {document for grades in found.judgements.values() for document in grades}
    trained = {pair.passage.id for pair in read_pairs(desk.pairs)}
    assert len(found.documents) == AMOUNT
    assert not asked & trained
    assert asked | trained == {f"p{n}" for n in range(AMOUNT)}
    assert len(found.queries) == 2 * len(asked)
    assert f"{len(found.queries)} queries" in told.output
    assert json.loads((desk.folder / "set/synthesis.json").read_text())["--model"] == "parrot"


def test_an_evaluation_set_alone_takes_every_question(desk: Desk) -> None:
    told = desk("--dataset", desk.folder / "set", "--passages", 10)

    assert told.code == 0, told.errors
    assert len(dataset.read(desk.folder / "set").queries) == 20
    assert f"winnow evaluate {desk.folder / 'set'}" in told.output


def test_questions_that_do_not_find_their_passage_are_dropped_if_so_wished(desk: Desk) -> None:
    noisy = questions("which zoo animal is the largest one", "what is the use of nothing")
    desk.server.answer = lambda seen: said(noisy) if seen.title == "animal 7" else good(seen)

    told = desk("-o", desk.pairs, "--keep-if-found", 1, "--encoder", "fake:512")

    assert told.code == 0, told.errors
    assert "did not and are dropped" in told.output
    assert "p7" not in {pair.passage.id for pair in read_pairs(desk.pairs)}
    assert len(read_pairs(desk.pairs)) > 70


def test_a_dry_run_shows_estimate_and_prompts_and_sends_and_writes_nothing(desk: Desk) -> None:
    told = desk(
        "-o", desk.pairs, "--dry-run", "--price-in", 1, "--price-out", 10, "--requests-per-minute", 20,
    )  # fmt: skip

    assert told.code == 0
    assert "35 tokens for a question" in told.errors
    assert "2.0 minutes or more" in told.errors
    assert "about 0.0" in told.errors
    assert told.output.count("Passage:\nFacts of number") == 3
    assert not desk.server.seen
    assert [path.name for path in desk.folder.iterdir()] == ["corpus.jsonl"]


def test_nothing_is_sent_before_a_person_agrees(desk: Desk) -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    arguments = [each for each in desk.arguments("-o", desk.pairs) if each != "--yes"]

    refused = runner.invoke(app, arguments, input="n\n")
    nobody = runner.invoke(app, arguments, input="")
    assert refused.exit_code == nobody.exit_code == 2
    assert "Nothing was sent. Add --yes" in nobody.stderr
    assert not desk.server.seen

    assert runner.invoke(app, arguments, input="y\n").exit_code == 0
    assert len(desk.server.seen) == AMOUNT


def test_the_same_command_again_asks_nothing_and_a_larger_sample_only_what_is_new(desk: Desk) -> None:
    assert desk("-o", desk.pairs, "--passages", 10).code == 0
    before = desk.pairs.read_bytes()
    assert desk("-o", desk.pairs, "--passages", 10).code == 0
    assert len(desk.server.seen) == 10
    assert desk.pairs.read_bytes() == before

    told = desk("-o", desk.pairs, "--passages", 25)
    assert "15 to ask about, 10 answered before" in told.errors
    assert len(set(desk.server.titles)) == len(desk.server.seen) == 25
    assert desk.pairs.read_bytes().startswith(before)


def test_a_passage_without_a_good_question_is_not_asked_about_again(desk: Desk) -> None:
    desk.server.answer = lambda seen: said('{"questions": []}')
    assert desk("-o", desk.pairs).code == 0
    told = desk("-o", desk.pairs)

    assert len(desk.server.seen) == AMOUNT
    assert "40 passages have none left" in told.output
    assert desk.pairs.read_text() == ""


def test_after_kill_9_only_what_was_under_way_is_asked_again(desk: Desk) -> None:
    desk.server.answer = slow
    chance = random.Random(7)
    for stop_at in (8, 20):
        running = desk.start("--concurrency", 3)
        desk.await_requests(stop_at)
        sleep(chance.uniform(0, 0.03))
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=PATIENCE)
        with desk.answers.open("ab") as torn:
            torn.write(b'{"passage": "torn')

    assert not desk.pairs.exists()
    told, errors = (finished := desk.start("--concurrency", 3)).communicate(timeout=PATIENCE)

    assert finished.returncode == 0, errors
    assert "answered before" in errors
    again = Counter(desk.server.titles)
    assert set(again) == {f"animal {n}" for n in range(AMOUNT)}
    assert sum(count - 1 for count in again.values()) <= 2 * 3
    assert sorted(desk.answered()) == sorted(f"p{n}" for n in range(AMOUNT))
    assert Counter(pair.passage.id for pair in read_pairs(desk.pairs)) == {f"p{n}": 2 for n in range(AMOUNT)}
    assert len(lines(desk.pairs)) == 80
    assert KEY not in told + errors + desk.answers.read_text() + desk.pairs.read_text()


def test_ctrl_c_keeps_what_was_answered_and_says_how_to_resume(desk: Desk) -> None:
    desk.server.answer = slowing
    running = desk.start("--concurrency", 2)
    desk.await_requests(10)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=PATIENCE)

    assert running.returncode == 130
    assert "Traceback" not in errors
    assert "Run the same command again to resume" in errors
    assert 6 <= len(desk.answered()) < AMOUNT
    assert len(lines(desk.pairs)) == 2 * len(desk.answered())


def test_a_cost_limit_ends_the_run_over_all_of_its_parts(desk: Desk) -> None:
    desk.server.answer = lambda seen: said(questions("what is it good for"), completion_tokens=100)
    limit = ("-o", desk.pairs, "--price-in", 1000, "--price-out", 1000, "--max-cost", 2)

    first, second = desk(*limit), desk(*limit)

    assert first.code == second.code == 1
    assert "might exceed --max-cost" in second.errors
    assert 5 <= len(desk.server.seen) <= 10
    assert desk(*limit[:-1], 3).code == 1
    assert len(desk.server.seen) > 10


def test_what_another_run_spends_while_the_question_is_put_counts_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one was asked to extend the sample, and the second one is quicker."""
    priced = ("-o", desk.pairs, "--price-in", 10, "--price-out", 10)

    def meanwhile(*_: object) -> None:
        monkeypatch.undo()
        assert "10 of 10 answered" in desk(*priced, "--passages", 10).output

    monkeypatch.setattr(synthesize, "_print_estimate", meanwhile)
    told = desk(*priced, "--max-cost", 0.014, "--passages", 20)

    assert "might exceed --max-cost" in told.errors
    assert len(desk.answered()) == 10
    assert "cost 0.0140" in told.output


def test_an_id_that_a_table_can_not_hold_is_named_before_anything_is_sent(desk: Desk) -> None:
    desk.corpus.write_text(json.dumps({"_id": "p1 ", "text": "Facts of the zoo."}) + "\n" + passage(2))

    told = desk("--dataset", desk.folder / "set")

    assert told.code == 2
    assert "corpus.jsonl:1: the id 'p1 ' holds blanks" in told.errors
    assert not desk.server.seen
    assert desk("-o", desk.pairs).code == 0


def test_a_wrong_key_stops_at_once_with_the_servers_words_and_without_the_key(desk: Desk) -> None:
    desk.server.answer = lambda seen: refusal(401, f"Incorrect API key provided: {KEY}.")

    told = desk("-o", desk.pairs, "--concurrency", 1, "--api-key-env", "MY_KEY", MY_KEY=KEY)

    assert told.code == 2
    assert "Incorrect API key provided: …. Put a valid key into the environment variable MY_KEY." in told.errors
    assert KEY not in told.errors + told.output + desk.answers.read_text()
    assert len(desk.server.seen) == 1
    assert not desk.pairs.exists()


def test_after_a_wrong_model_name_another_may_be_given(desk: Desk) -> None:
    desk.server.answer = lambda seen: good(seen) if seen.body["model"] == "raven" else refusal(404, "no such model")

    assert desk("-o", desk.pairs).code == 2
    assert desk("-o", desk.pairs, "--model", "raven").code == 0


def test_failed_passages_are_listed_and_asked_again_by_the_next_run(desk: Desk) -> None:
    desk.server.answer = lambda seen: said("no") if seen.title == "animal 3" else good(seen)
    told = desk("-o", desk.pairs)

    failed = desk.folder / "pairs.jsonl.failed"
    assert told.code == 1
    assert f"1 passages failed, see {failed}" in told.errors
    assert [each["id"] for each in lines(failed)] == ["p3"]
    assert len(lines(desk.pairs)) == 78

    desk.server.answer = good
    assert desk("-o", desk.pairs).code == 0
    assert not failed.exists()
    assert desk.server.titles[-1] == "animal 3"
    assert len(lines(desk.pairs)) == 80


def test_other_settings_on_the_same_output_are_refused(desk: Desk) -> None:
    assert desk("-o", desk.pairs, "--passages", 3).code == 0
    (desk.folder / "own.txt").write_text("Questions about {text} please.")

    for name, *other in (
        ("--model", "raven"),
        ("--seed", 9),
        ("--per-passage", 3),
        ("prompt", "--prompt", desk.folder / "own.txt"),
    ):
        told = desk("-o", desk.pairs, *([name] if name.startswith("--") else []), *other)
        assert told.code == 2
        assert f"{desk.answers} was begun otherwise: {name}" in told.errors
    told = desk("-o", desk.pairs, "--dataset", desk.folder / "set")
    assert "share of the dataset was 0.0 and is 0.1" in told.errors
    assert len(desk.server.seen) == 3


def test_files_of_others_are_not_overwritten(desk: Desk) -> None:
    desk.pairs.write_text("precious\n")
    (desk.folder / "set").mkdir()
    (desk.folder / "set" / "notes.txt").write_text("precious")

    assert "exists and no run of this command wrote it" in desk("-o", desk.pairs).errors
    assert "not empty and no run of this command wrote it" in desk("--dataset", desk.folder / "set").errors
    assert desk.pairs.read_text() == "precious\n"
    assert not desk.server.seen


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Name what to write: --output pairs.jsonl, --dataset FOLDER, or both."),
        (("-o", "pairs.csv"), "pairs.csv is not named .jsonl"),
        (("-o", "p.jsonl", "--held-out", "0.2"), "name both"),
        (("-o", "p.jsonl", "--url", ""), "--url or OPENAI_BASE_URL"),
        (("-o", "p.jsonl", "--url", "localhost:11434"), "--url looks like http://localhost:11434/v1"),
        (("-o", "p.jsonl", "--model", ""), "Name the chat model by --model"),
        (("-o", "p.jsonl", "--api-key-env", "NOBODY_SET_THIS"), "NOBODY_SET_THIS is not set"),
        (("-o", "p.jsonl", "--price-in", "1"), "Give both --price-in and --price-out"),
        (("-o", "p.jsonl", "--max-cost", "1"), "--max-cost needs --price-in and --price-out"),
        (("-o", "p.jsonl", "--options", "{"), "--options is no JSON"),
        (("-o", "p.jsonl", "--options", '{"stream": true}'), "--options is an object without"),
        (("-o", "p.jsonl", "--dataset", "s", "--passages", "1"), "Of 1 passages none falls to"),
    ],
)
def test_what_can_not_work_is_said_before_anything_is_sent(desk: Desk, arguments: tuple[str, ...], told: str) -> None:
    with chdir(desk.folder):
        ended = desk(*arguments)

    assert ended.code == 2
    assert told in ended.errors.replace("\n", " ")
    assert not desk.server.seen
    assert [path.name for path in desk.folder.iterdir()] == ["corpus.jsonl"]


def test_the_address_comes_from_the_environment_too(desk: Desk) -> None:
    arguments = [each for each in desk.arguments("-o", desk.pairs) if each not in ("--url", desk.server.url)]

    ran = CliRunner(env={"OPENAI_BASE_URL": desk.server.url}).invoke(app, arguments)

    assert ran.exit_code == 0, ran.stderr
    assert len(desk.server.seen) == AMOUNT


def test_examples_of_the_user_reach_the_model(desk: Desk) -> None:
    (desk.folder / "queries.txt").write_text("zoo prices kids\nhow tall is a giraffe\n")

    assert desk("-o", desk.pairs, "--examples", desk.folder / "queries.txt").code == 0

    assert "- zoo prices kids" in desk.server.seen[0].prompt
