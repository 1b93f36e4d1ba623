"""What watching over quality costs searches: `python -m loadtest.observing`. Four minutes.

Searches come at random moments, so that there is idle time between them, in turns to a service that watches and to one
that does not. Each turn starts the service anew; the first searches of a turn only warm it up.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from loadtest.passages import passages, questions
from loadtest.service import Command, free_port, running

PATIENCE = 120.0
WARM = 5
ROW = "| {} | {} | {:.0f} | {:.0f} | {:.0f} | {:.1f} | {:.0f} |"


@contextmanager
def service(share: float, given: argparse.Namespace) -> Iterator[httpx.Client]:
    """Winnow with so many of its searches under watch, and passages in it."""
    port = free_port()
    with TemporaryDirectory() as folder:
        environment = {
            "WINNOW_PORT": str(port),
            "WINNOW_DATA_DIR": folder,
            "WINNOW_OBSERVE_SHARE": str(share),
            "WINNOW_OBSERVE_TIME": str(given.time),
            "WINNOW_CANDIDATES": str(given.candidates),
            "WINNOW_LOG_LEVEL": "warning",
        }
        words = [sys.executable, "-m", "app.cli", "serve"]
        command = Command(words, f"http://127.0.0.1:{port}/readyz", environment)
        with (
            running([command], Path.cwd(), Path(folder) / "log"),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client,
        ):
            held = [{"id": each.id, "text": each.text} for each in passages(given.documents)]
            client.post("/ingest", json={"documents": held}).raise_for_status()
            yield client


def turn(client: httpx.Client, asked: list[str], rate: float, seconds: float, seed: int) -> list[float]:
    """Milliseconds of each search. One client: a search that is late delays the next, in both kinds of service."""
    draw, until = random.Random(seed), monotonic() + seconds
    taken: list[float] = []
    for number, query in enumerate(asked):
        if monotonic() > until:
            break
        sleep(draw.expovariate(rate))
        began = monotonic()
        client.post("/search", json={"query": query}).raise_for_status()
        if number >= WARM:
            taken.append(1000 * (monotonic() - began))
    return taken


def idle_seconds(client: httpx.Client) -> float:
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "winnow_observe_seconds_total":
                return float(sample.value)
    return 0.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1.0, help="searches a second, where they take no time")
    parser.add_argument("--seconds", type=float, default=50.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=2, help="of each kind of service")
    parser.add_argument("--share", type=float, default=1.0, help="of searches that are looked at once more")
    parser.add_argument("--time", type=float, default=0.05, help="share of the time that this may take")
    return parser.parse_args()


def main() -> None:
    given, asked = arguments(), questions()
    taken: dict[float, list[float]] = {0.0: [], given.share: []}
    idle: dict[float, float] = dict.fromkeys(taken, 0.0)
    for number in range(given.turns):
        for share in taken:
            with service(share, given) as client:
                taken[share] += turn(client, asked, given.rate, given.seconds, seed=number)
                idle[share] += idle_seconds(client)
    print("| watched | searches | mean ms | p50 ms | p95 ms | idle seconds at work | of seconds |")
    print("|---|---|---|---|---|---|---|")
    for share, times in taken.items():
        p50, p95 = np.percentile(times, [50, 95])
        print(ROW.format(share, len(times), np.mean(times), p50, p95, idle[share], given.turns * given.seconds))


if __name__ == "__main__":
    main()
