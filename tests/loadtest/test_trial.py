from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from loadtest.environments import PEERS, environment, torch_pin
from loadtest.lineup import LINEUP, Peer, Winnow, serve_winnow
from loadtest.machine import this_machine
from loadtest.passages import passages, questions
from loadtest.reference import right_answers
from loadtest.report import Results, as_json, markdown
from loadtest.service import Command, Unavailable
from loadtest.trial import Phase, Plan, try_peer

PYTHON = Path(sys.executable)


class Quiet:
    def __init__(self) -> None:
        self.steps: list[str] = []

    def doing(self, what: str) -> None:
        self.steps.append(what)

    def done(self, phase: Phase) -> None:
        self.steps.append(f"done: {phase.title}")


@pytest.fixture
def plan() -> Plan:
    """Nothing is right, so that every answer differs from it."""
    asked = questions()
    return Plan(passages(60), asked, {asked[0]: ["none"]}, (1, 2), (0.5,), 0.3, 30.0, 1)


def serve_fakes(python: Path, folder: Path, port: int) -> list[Command]:
    (command,) = serve_winnow(python, folder, port)
    return [Command((*command.words, "--encoder", "fake:512", "--reranker", "fake"), command.ready)]


FAKES = Peer("winnow", "with fake models", None, serve_fakes, Winnow({"mode": "dense"}))
BROKEN = Peer(
    "broken",
    "ends at once",
    None,
    lambda python, folder, port: [Command((python, "-c", "raise SystemExit('out of luck')"), "http://127.0.0.1:1/")],
    Winnow({}),
)


def test_a_peer_is_filled_asked_in_every_way_measured_and_stopped(plan: Plan, tmp_path: Path) -> None:
    screen = Quiet()
    trial = try_peer(FAKES, PYTHON, plan, 20.0, tmp_path, screen)
    assert trial.trouble is None
    assert [(phase.kind, phase.amount) for phase in trial.phases] == [
        ("closed", 1),
        ("closed", 2),
        ("open", trial.best_rate / 2),
        ("open", 20.0),
    ]
    assert all(phase.load.answered and phase.cpu_seconds > 0 for phase in trial.phases)
    assert trial.phases[3].load.answered == 6
    assert trial.peak_bytes is not None
    assert trial.peak_bytes > 30e6
    assert trial.likeness is not None
    assert (trial.likeness.overlap, trial.likeness.same_first) == (0, 0)
    assert screen.steps[-1].startswith("done: 20.00 arrivals/s")


def test_the_report_has_all_that_was_measured_and_says_who_was_not(plan: Plan, tmp_path: Path) -> None:
    measured = try_peer(FAKES, PYTHON, plan, 20.0, tmp_path, Quiet())
    twice = dataclasses.replace(measured, peer=dataclasses.replace(FAKES, name="other"))
    broken = try_peer(BROKEN, PYTHON, plan, None, tmp_path, Quiet())
    results = Results(this_machine(), plan, [twice, measured, broken], 0.1)
    report, told = markdown(results), json.loads(as_json(results))
    assert "| other | 1.0 / 1.0 | 1.0 / 1.0 |" in report  # as fast as itself
    assert f"| {measured.phases[0].load.rate:.2f} / {measured.phases[1].load.rate:.2f} |" in report
    assert "**broken**: ends at once. **Not measured**: ended at its start with exit code 1: out of luck;" in report
    assert [peer["name"] for peer in told["peers"]] == ["other", "winnow", "broken"]
    assert told["peers"][1]["loads"][0]["milliseconds"] == measured.phases[0].load.percentiles()
    assert told["machine"]["cores"] >= 1
    assert told["peers"][2]["loads"] == []


def test_a_service_that_takes_nothing_in_is_no_end_of_the_benchmark(plan: Plan, tmp_path: Path) -> None:
    def other_service(python: Path, folder: Path, port: int) -> list[Command]:
        words = (python, "-m", "http.server", "--bind", "127.0.0.1", str(port))
        return [Command(words, f"http://127.0.0.1:{port}/")]

    trial = try_peer(Peer("files", "", None, other_service, Winnow({})), PYTHON, plan, None, tmp_path, Quiet())
    assert trial.trouble is not None
    assert "took no passages in" in trial.trouble


def test_the_naive_service_answers_as_exact_search_does(tmp_path: Path) -> None:
    held, asked = passages(12), questions()[:1]
    right = right_answers(held, asked, tmp_path / "reference")
    assert right == right_answers(held, asked, tmp_path / "reference")  # read from disk
    plan = Plan(held, [*asked, *questions()[-3:]], right, (1,), (), 0.1, 60.0, 1)
    trial = try_peer(LINEUP["naive"], PYTHON, plan, None, tmp_path, Quiet())
    assert trial.trouble is None
    assert trial.likeness is not None
    assert (trial.likeness.overlap, trial.likeness.same_first) == (1, 1)


def test_an_environment_that_cannot_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    missing.write_text(f"{tmp_path}/no-such-package.whl\n")
    with pytest.raises(Unavailable, match=r"missing.txt can't be installed \(pip ended with exit code 1\)"):
        environment(str(missing), tmp_path / "environment")
    assert "no-such-package" in (tmp_path / "environment-install.log").read_text()


def test_no_peer_brings_a_torch_of_its_own_and_all_versions_are_pinned() -> None:
    assert torch_pin().startswith("torch==")
    for peer in LINEUP.values():
        if peer.requirements:
            lines = (PEERS / peer.requirements).read_text().splitlines()
            assert lines
            assert all("==" in line and not line.startswith("torch==") for line in lines)
