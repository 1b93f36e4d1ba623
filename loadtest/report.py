"""What was measured, as tables for people and as JSON with everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from loadtest.environments import PEERS, torch_pin
from loadtest.lineup import CANDIDATES, TOP
from loadtest.machine import Machine
from loadtest.trial import Phase, Plan, Trial

ENOUGH_FOR_P99 = 100
OURS = ("fastapi", "hnswlib", "openvino", "sentence-transformers", "tantivy", "tokenizers", "torch", "uvicorn")
YARDSTICK = "winnow"
"""Whose throughput the others' is compared with."""

NOTES = f"""
- Every service has the same two models, the same passages and the same questions in the same order, and returns the
  {TOP} best of {CANDIDATES} candidates with their texts. One runs at a time, with its default number of threads; the
  load comes from another process on the same machine.
- *clients*: each asks again when it has its answer. Whoever is refused asks again when he was told to, and the
  time counts from the first attempt.
- *arrivals*: evenly spaced, whether or not the questions before are answered; time counts from the planned arrival.
  Whoever is refused goes away, and is counted.
- A question that was given up counts with the time for which it waited. p99 is left out below {ENOUGH_FOR_P99} answers.
- *like exact*: of the {TOP} hits, how many are those of exact search and the same cross-encoder in float32 by
  sentence-transformers, and how often the first is the same; from answers given under load. `winnow-default` orders by
  other things as well (words, cosine), so it is not meant to be the same.
- CPU seconds are those of all processes of a service, memory is the most that they had together at any moment.
"""


@dataclass(frozen=True, slots=True)
class Results:
    machine: Machine
    plan: Plan
    trials: Sequence[Trial]
    minutes: float


def markdown(results: Results) -> str:
    measured = [trial for trial in results.trials if trial.phases]
    clients = results.plan.clients
    parts = [_heading(results), _overview(measured, results.plan)]
    parts += [_ratios(measured, clients)] if any(trial.peer.name == YARDSTICK for trial in measured) else []
    parts += [_loads(measured), _who(results.trials), NOTES]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _heading(results: Results) -> str:
    machine, plan = results.machine, results.plan
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    return (
        f"{machine.processor}, {machine.cores} cores{flags}, {machine.memory_gib} GiB, {machine.system}, "
        f"Python {machine.python}, commit {machine.commit}, load average {machine.load_average} before. "
        f"{len(plan.passages):,} passages of about 170 tokens, top {TOP} of {CANDIDATES} candidates, "
        f"{plan.seconds:.0f} s a load, {results.minutes:.0f} minutes in all."
    )


def _overview(trials: Sequence[Trial], plan: Plan) -> str:
    """The table for the README."""
    with_clients = _with(plan.clients)
    titles = [
        "",
        f"searches/s, {with_clients}",
        f"p50 ms, {with_clients}",
        "CPU s a search",
        "memory MB",
        "ready in s",
        "passages/s",
        "like exact: ten, first",
    ]
    return _table(titles, (_overview_row(trial, plan) for trial in trials))


def _overview_row(trial: Trial, plan: Plan) -> list[str]:
    phases = [trial.closed(amount) for amount in plan.clients]
    return [
        trial.peer.name,
        " / ".join(f"{phase.load.rate:.2f}" if phase else "-" for phase in phases),
        " / ".join(_milliseconds(phase, "p50") for phase in phases),
        _figure(_cheapest(trial), ".2f"),
        _figure(trial.peak_bytes and trial.peak_bytes / 1e6, ".0f"),
        _figure(trial.ready_seconds, ".1f"),
        _figure(trial.ingest_seconds and len(plan.passages) / trial.ingest_seconds, ".0f"),
        f"{trial.likeness.overlap:.3f}, {trial.likeness.same_first:.3f}" if trial.likeness else "-",
    ]


def _ratios(trials: Sequence[Trial], clients: Sequence[int]) -> str:
    """How many times better Winnow is than each peer."""
    ours = next(trial for trial in trials if trial.peer.name == YARDSTICK)
    others = [trial for trial in trials if trial.peer.name != YARDSTICK]
    of = _with(clients)
    titles = [f"`{YARDSTICK}` against", f"times the searches/s, {of}", f"times as fast at p50, {of}"]
    return _table(titles, (_ratio_row(ours, other, clients) for other in others))


def _ratio_row(ours: Trial, other: Trial, clients: Sequence[int]) -> list[str]:
    pairs = [(ours.closed(amount), other.closed(amount)) for amount in clients]
    rates = [_ratio(a.load.rate, b.load.rate) if a and b else "-" for a, b in pairs]
    medians = [_ratio(_p(b, "p50"), _p(a, "p50")) if a and b else "-" for a, b in pairs]
    return [other.peer.name, " / ".join(rates), " / ".join(medians)]


def _with(clients: Sequence[int]) -> str:
    return f"{' / '.join(str(amount) for amount in clients)} clients"


def _loads(trials: Sequence[Trial]) -> str:
    titles = [
        "",
        "load",
        "answered",
        "per s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "refused",
        "failed",
        "given up",
        "CPU s each",
    ]
    return _table(titles, (_load_row(trial, phase) for trial in trials for phase in trial.phases))


def _load_row(trial: Trial, phase: Phase) -> list[str]:
    load = phase.load
    times = [_milliseconds(phase, name) for name in ("p50", "p95", "p99")]
    counts = [str(count) for count in (load.refusals, load.count("failed"), load.count("given up"))]
    cpu = _figure(phase.cpu_per_search, ".2f")
    return [trial.peer.name, phase.title, str(load.answered), f"{load.rate:.2f}", *times, *counts, cpu]


def _who(trials: Iterable[Trial]) -> str:
    lines = []
    for trial in trials:
        trouble = f" **Not measured{' to the end' if trial.phases else ''}**: {trial.trouble}." if trial.trouble else ""
        lines.append(f"- **{trial.peer.name}**: {trial.peer.about}.{trouble}")
    return "\n".join(lines)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ratio(above: float | None, beneath: float | None) -> str:
    return f"{above / beneath:.1f}" if above and beneath else "-"


def _p(phase: Phase, name: str) -> float | None:
    return (phase.load.percentiles() or {}).get(name)


def _milliseconds(phase: Phase | None, name: str) -> str:
    if phase is None or (name == "p99" and phase.load.answered < ENOUGH_FOR_P99):
        return "-"
    return _figure(_p(phase, name), ".0f")


def _cheapest(trial: Trial) -> float | None:
    """CPU seconds of a search where most are answered."""
    busiest = max(trial.phases, key=lambda phase: phase.load.rate)
    return busiest.cpu_per_search


def as_json(results: Results) -> str:
    plan = results.plan
    settings = {
        "passages": len(plan.passages),
        "questions": len(plan.questions),
        "questions_compared": len(plan.right),
        "top": TOP,
        "candidates": CANDIDATES,
        "clients": list(plan.clients),
        "shares": list(plan.shares),
        "seconds": plan.seconds,
        "patience": plan.patience,
        "starts": plan.starts,
    }
    told = {
        "machine": asdict(results.machine),
        "settings": settings,
        "minutes": results.minutes,
        "peers": [_trial(trial) for trial in results.trials],
    }
    return json.dumps(told, indent=1) + "\n"


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.peer.name,
        "about": trial.peer.about,
        "versions": _versions(trial),
        "trouble": trial.trouble,
        "ready_seconds": trial.ready_seconds,
        "ingest_seconds": trial.ingest_seconds,
        "peak_bytes": trial.peak_bytes,
        "like_exact": asdict(trial.likeness) if trial.likeness else None,
        "loads": [_phase(phase) for phase in trial.phases],
    }


def _versions(trial: Trial) -> list[str]:
    if trial.peer.requirements:
        return [*(PEERS / trial.peer.requirements).read_text().split(), torch_pin()]
    return [f"{name}=={version(name)}" for name in OURS]


def _phase(phase: Phase) -> dict[str, Any]:
    load = phase.load
    return {
        "kind": phase.kind,
        "amount": phase.amount,
        "title": phase.title,
        "lasted": load.lasted,
        "answered": load.answered,
        "per_second": load.rate,
        "milliseconds": load.percentiles(),
        "refusals": load.refusals,
        "refused": load.count("refused"),
        "failed": load.count("failed"),
        "given_up": load.count("given up"),
        "failures": Counter(answer.trouble for answer in load.answers if answer.outcome == "failed"),
        "cpu_seconds": phase.cpu_seconds,
        "all_milliseconds": [[answer.outcome, round(1000 * answer.seconds, 2)] for answer in load.answers],
    }
