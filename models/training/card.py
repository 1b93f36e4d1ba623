"""The model card: what was done with what, and what came of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from models.training.judge import Metrics
from models.training.run import Plan
from models.training.settings import EncoderSettings, HeadSettings, RerankerSettings
from models.training.trainer import Fitted

CURVE_FILE = "curve.csv"
NOUNS = {
    "encoder": "A bi-encoder",
    "head": "A bi-encoder with a head that puts the most into its first numbers",
    "reranker": "A cross-encoder that corrects a first stage's order",
}
SETTINGS = {"train encoder": EncoderSettings, "train head": HeadSettings, "train reranker": RerankerSettings}


@dataclass(frozen=True, slots=True)
class Account:
    """What was trained on and what was judged by, in words."""

    data: str
    judged_by: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known about a finished training."""

    output: Path
    plan: Plan
    machine: str
    account: Account
    before: Metrics
    after: Metrics
    fitted: Fitted

    @property
    def helped(self) -> bool:
        """Whether the first of the measures, which is the one that decides, has grown; without any, nobody knows."""
        first = next(iter(self.before), None)
        return first is None or self.after[first] > self.before[first]


def write_card(folder: Path, report: Report) -> None:
    """Writes README.md and the learning curve beside the weights."""
    (folder / "README.md").write_text("\n".join(_card(report)) + "\n", encoding="utf-8")
    with (folder / CURVE_FILE).open("w", encoding="utf-8", newline="") as file:
        columns = dict.fromkeys(name for row in report.fitted.curve for name in row)
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(report.fitted.curve)


def add_to_card(folder: Path, output: Path, plan: Plan, told: Iterable[str]) -> None:
    """Tells at the end of a copy's card, which came along, what was done to the copy."""
    file = folder / "README.md"
    before = file.read_text("utf-8").rstrip() if file.exists() else f"# {output.name}"
    file.write_text("\n".join([before, *_addition(output, plan, told)]) + "\n", encoding="utf-8")


def _addition(output: Path, plan: Plan, told: Iterable[str]) -> Iterator[str]:
    yield from _section(f"Changed since by `winnow {plan.command}`", told)
    yield from _models(plan)
    yield from table(("file", "SHA-256"), plan.data.items())
    yield ""
    yield from table(("setting", "value"), plan.settings.items())
    yield f"\nThe same again:\n\n```\n{_command(output, plan)}\n```"


def _models(plan: Plan) -> Iterator[str]:
    yield ""
    yield from table(("model", "fingerprint"), ((name, mark[:16]) for name, mark in plan.models.items()))
    yield ""


def _command(output: Path, plan: Plan) -> str:
    places = [*map(quote, plan.given), "--output", quote(str(output))]
    return " ".join(["winnow", plan.command, *places, *plan.flags])


def _card(report: Report) -> Iterator[str]:
    kind = report.plan.command.removeprefix("train ")
    yield from _front(report, kind)
    yield f"# {report.output.name}"
    yield ""
    yield _introduction(kind, *next(iter(report.plan.models.items())))
    yield ""
    yield _licence(report.plan.settings["licence"])
    yield from _quality(report)
    yield from _section("Data", table(("file", "SHA-256"), report.plan.data.items()))
    yield f"\n{report.account.data}."
    yield from _section("Settings", table(("setting", "value"), report.plan.settings.items()))
    yield f"\n{report.fitted.told(report.machine)} The same again:\n"
    yield f"```\n{_command(report.output, report.plan)}\n```"


def _front(report: Report, kind: str) -> Iterator[str]:
    licence = report.plan.settings["licence"]
    yield "---"
    yield from [f"license: {json.dumps(licence)}"] if licence else []
    yield "library_name: sentence-transformers"
    yield f"pipeline_tag: {'text-ranking' if kind == 'reranker' else 'sentence-similarity'}"
    yield f"base_model: {json.dumps(next(iter(report.plan.models)))}"
    yield "---\n"


def _introduction(kind: str, base: str, fingerprint: str) -> str:
    return f"{NOUNS[kind]}, trained by Winnow from `{base}` (fingerprint {fingerprint[:16]}). Stored in half precision."


def _licence(licence: str) -> str:
    if licence:
        return f"Licence of these weights: {licence}."
    return "Licence of these weights: not stated yet. Say here what the base model's and the data's licences allow."


def _quality(report: Report) -> Iterator[str]:
    if not report.before:
        yield from _section("Quality", ["Not measured: nothing was held out."])
        return
    rows = [
        (name, f"{value:.4f}", f"{report.after[name]:.4f}", f"{report.after[name] - value:+.4f}")
        for name, value in report.before.items()
    ]
    yield from _section("Quality", table(("held-out queries", "before", "after", "difference"), rows))
    yield f"\n{report.account.judged_by} The stored weights were judged, not those that training held in memory."
    names = ["step", *(name for name in report.before if name.startswith("ndcg"))]
    points = [{"step": 0} | report.before, *(row for row in report.fitted.curve if names[1] in row)]
    shown = [[_number(row[name]) for name in names] for row in points]
    yield from _section("Learning curve", table(names, shown))
    yield f"\nAll of it, with losses, is in `{CURVE_FILE}`."


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield from lines


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield "| " + " | ".join(_cell(cell) for cell in row) + " |"


def _cell(value: Any) -> str:
    """A line of a table ends where a prompt has its own end."""
    return str(value).replace("|", "\\|").replace("\n", "<br>")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
