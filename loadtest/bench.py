"""Winnow beside the services that people build instead: `python -m loadtest.bench`, or `make bench`.

Each peer gets a virtual environment of its own in .bench/ (made once; a minute or more and 1.5 GB each, torch being
large), is started, filled with the same passages, asked in the same ways, and stopped; then comes the next. Writes
report.md and report.json. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from loadtest.environments import environment
from loadtest.lineup import LINEUP, SHORT, Peer, interpreter
from loadtest.machine import ROOT, this_machine
from loadtest.passages import passages, questions
from loadtest.reference import right_answers
from loadtest.report import Results, as_json, markdown
from loadtest.service import Unavailable
from loadtest.trial import Phase, Plan, Trial, try_peer

KEPT = ROOT / ".bench"
BUSY = 0.5
"""Processes that want to run before we do anything: from here on the figures are doubtful."""

console = Console(highlight=False)

FULL: dict[str, object] = {
    "peers": list(LINEUP), "documents": 800, "clients": [1, 8, 32], "shares": [0.5, 0.8],
    "seconds": 20.0, "compared": 100, "starts": 2,
}  # fmt: skip
QUICK: dict[str, object] = {
    "peers": list(SHORT), "documents": 300, "clients": [1, 4], "shares": [0.5],
    "seconds": 5.0, "compared": 6, "starts": 2,
}  # fmt: skip


def main() -> None:
    given = arguments()
    began = monotonic()
    machine = this_machine()
    if machine.load_average > BUSY:
        console.print(f"[yellow]The load average is {machine.load_average}: something else runs, figures are doubtful.")
    plan = make_plan(given)
    trials = list(measure(given.peers, plan, given.rate))
    write(Results(machine, plan, trials, (monotonic() - began) / 60), given.output)


def make_plan(given: argparse.Namespace) -> Plan:
    held, asked = passages(given.documents), questions()
    with console.status(f"right answers to {given.compared} questions, computed once"):
        right = right_answers(held, asked[: given.compared], KEPT / "reference")
    return Plan(held, asked, right, given.clients, given.shares, given.seconds, given.patience, given.starts)


def measure(names: Sequence[str], plan: Plan, rate: float | None) -> Iterator[Trial]:
    """One peer after the other. Where no rate is given, what loads the first one most is asked of all that follow."""
    for number, name in enumerate(names, 1):
        trial = _measure(LINEUP[name], f"{number}/{len(names)} {name}", plan, rate)
        if rate is None and trial.best_rate:
            rate = max(plan.shares) * trial.best_rate
        yield trial


def _measure(peer: Peer, title: str, plan: Plan, rate: float | None) -> Trial:
    with console.status(title) as status:
        screen = Screen(title, status)
        screen.doing("environment; making it takes minutes the first time")
        try:
            python = interpreter(peer, lambda requirements: environment(requirements, KEPT / Path(requirements).stem))
            trial = try_peer(peer, python, plan, rate, KEPT, screen)
        except Unavailable as error:
            trial = Trial(peer, trouble=str(error))
    if trial.trouble:
        console.print(f"[red]{title}: {escape(trial.trouble)}", soft_wrap=True)
    return trial


class Screen:
    """A spinner with what is being done, and above it a line for each load that is through."""

    def __init__(self, title: str, status: Status) -> None:
        self._title = title
        self._status = status

    def doing(self, what: str) -> None:
        self._status.update(f"{self._title}: {what}")

    def done(self, phase: Phase) -> None:
        load = phase.load
        median = (load.percentiles() or {"p50": float("nan")})["p50"]
        told = f"{load.answered} answers, {load.rate:.2f}/s, p50 {median:.0f} ms"
        console.print(f"{self._title}: {phase.title}: {told}, {load.refusals} refusals", soft_wrap=True)


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown(results)
    (folder / "report.md").write_text(table)
    (folder / "report.json").write_text(as_json(results))
    console.print(table, markup=False, soft_wrap=True)
    console.print(f"Written to {folder / 'report.md'} and report.json beside it.", soft_wrap=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few minutes: smaller defaults for all of the following")
    parser.add_argument("--peers", nargs="+", choices=list(LINEUP), help="who, in this order")
    parser.add_argument("--documents", type=int, help="passages to search")
    parser.add_argument("--clients", type=int, nargs="+", help="closed loops")
    parser.add_argument("--shares", type=float, nargs="+", help="open loops, as shares of a peer's best throughput")
    parser.add_argument("--rate", type=float, help="an open loop for all peers, in arrivals a second; by default the "
                        "highest of the first peer")  # fmt: skip
    parser.add_argument("--seconds", type=float, help="how long each load goes on asking")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds after which a question is given up")
    parser.add_argument("--compared", type=int, help="questions whose answers are compared with exact ones")
    parser.add_argument("--starts", type=int, help="times that each peer is started; the last one counts")
    parser.add_argument("--output", type=Path, default=_usual_output(), help="folder of the report")
    given = parser.parse_args()
    for name, usual in (QUICK if given.short else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, usual)
    return given


def _usual_output() -> Path:
    return ROOT / "loadtest" / "results" / datetime.now().strftime("bench-%Y%m%d-%H%M%S")


if __name__ == "__main__":
    main()
