"""Schemathesis against Winnow's own OpenAPI, in rounds until so many requests were sent:

    python -m loadtest.fuzz --cases 20000 --seed 7

Each round asks a new process with fake models: first every operation by itself, well and badly, then in the order that
the OpenAPI's links give. A finding is an answer that the OpenAPI does not describe or whose body it does not, any 5xx,
nonsense that is taken, an error in the service's log, and a service that is not ready afterwards. Exits with 1 if
there was any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import httpx

from loadtest.machine import ROOT
from loadtest.service import Command, free_port, running

CONFIG = ROOT / "loadtest" / "schemathesis.toml"
EXAMPLES = 200
"""Of each operation in a round."""

ALL, LATER = "examples,coverage,fuzzing,stateful", "fuzzing,stateful"
"""Phases; the first two are the same in every round."""

ROUND_SECONDS = 1800.0
PATIENCE = 60
"""Seconds for an answer: the first model that needs torch waits for it to be imported."""


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one: how many requests, and what was wrong, in words."""

    seed: int
    cases: int
    findings: str


def main() -> None:
    given = _arguments()
    cases, found, seeds = 0, 0, Random(given.seed)
    while cases < given.cases:
        done = fuzz(seeds.randrange(2**32), given.examples, LATER if cases else ALL)
        cases += done.cases
        found += bool(done.findings)
        print(f"seed {done.seed}: {done.cases} cases, {cases} in all{done.findings or ', nothing found'}", flush=True)
    print(f"{cases} cases from seed {given.seed}, findings in {found} rounds")
    sys.exit(1 if found else 0)


def fuzz(seed: int, examples: int, phases: str = ALL) -> Round:
    """One round."""
    with TemporaryDirectory(prefix="winnow-fuzz-") as name:
        folder, port = Path(name), free_port()
        url, log = f"http://127.0.0.1:{port}", folder / "service.log"
        with running([_service(port, folder)], folder, log):
            said = _ask(url, seed, examples, phases, folder)
            ready = httpx.get(f"{url}/readyz")
        report = json.loads((folder / "report.json").read_text())
        findings = ["\n" + said] if report["exit_code"] else []
        findings += [f"\nnot ready afterwards: {ready.text}"] if ready.status_code != httpx.codes.OK else []
        findings += [f"\nin the log: {line}" for line in log.read_text().splitlines() if '"level": "error"' in line]
        return Round(seed, report["test_cases"]["generated"], "".join(findings))


def _service(port: int, folder: Path) -> Command:
    settings = {"PORT": port, "DATA_DIR": folder / "data", "ENCODER": "fake", "RERANKER": "fake", "LOG_LEVEL": "error"}
    environment = {f"WINNOW_{name}": str(value) for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    return Command([sys.executable, "-m", "app.cli", "serve"], f"http://127.0.0.1:{port}/readyz", environment)


def _ask(url: str, seed: int, examples: int, phases: str, folder: Path) -> str:
    """What schemathesis prints; its report says how it went."""
    words = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color"),
        *("run", f"{url}/openapi.json", "--seed", str(seed), "--max-examples", str(examples), "--phases", phases),
        *("--continue-on-failure", "--no-shrink", "--output-sanitize", "false", "--request-timeout", str(PATIENCE)),
        *("--report", "json", "--report-json-path", "report.json"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "loadtest.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    asked = subprocess.run(
        words, cwd=folder, env=os.environ | hooks, capture_output=True, text=True, timeout=ROUND_SECONDS, check=False
    )
    return asked.stdout + asked.stderr


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="requests to send, at least")
    parser.add_argument("--seed", type=int, default=1, help="the same one, the same requests")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of each operation in a round")
    return parser.parse_args()


if __name__ == "__main__":
    main()
