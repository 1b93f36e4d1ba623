"""Does anything leak? `python -m loadtest.soak --minutes 30`. Says what grows, draws it, and ends with 1 where it does.

In a run that is too short, or that the service did not keep up with, growth is shown and says nothing.

One service under mixed load: searches of all kinds, documents replaced, deleted and brought back, streamed, files,
collections that come and go, requests that are wrong, and clients that leave. As much is taken away as is added. All
the while its memory, descriptors, threads, tasks, data on disk and the latency of searches are sampled. Models are
fakes, which take no time, so that everything else is asked the more; `--models embedded` takes those that ship.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import psutil

from app.quality import plots
from loadtest import sheet
from loadtest.growth import Measure, Trend, trend
from loadtest.machine import ROOT, folder_bytes, this_machine
from loadtest.process import Process
from loadtest.traffic import Traffic

MEASURES = (
    Measure("memory", "MB", 0.03, 8.0),
    Measure("descriptors", "", 0.0, 4.0, floor=True),
    Measure("threads", "", 0.0, 2.0, floor=True),
    Measure("tasks", "", 0.0, 4.0, floor=True),
    Measure("data on disk", "MB", 0.1, 4.0),
    Measure("search, p50", "ms", 0.5, 10.0),
    Measure("search, p95", "ms", 0.5, 30.0),
)
SAMPLES, SHORTEST = 240, 0.25
"""Of a run, and seconds between two."""
MODELS: Mapping[str, dict[str, object]] = {
    "fake": {"ENCODER": "fake:late:384", "RERANKER": "fake", "SPARSE": "fake"},
    "embedded": {"ENCODER": "embedded", "RERANKER": "embedded"},
}
SETTINGS: dict[str, object] = {
    "SNAPSHOT_CHANGES": 2000,
    "QUERY_CACHE_BYTES": 2**18,
    "QUEUE_SECONDS": 30,
}
"""Whatever comes round comes round several times in half an hour: snapshots, compactions, caches that are full."""
PATIENCE = 60.0
DOCUMENTS = 2000
LONG = 10.0
"""Minutes of a run that can tell a leak from pools and caches that are not full yet."""
BEHIND = 0.01
"""Share of requests left out from which on there is more under way all the time, which takes memory, tasks and time."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was sampled, and what came of the requests."""

    minutes: list[float]
    values: dict[str, list[float]]
    """By measure."""
    statuses: Mapping[str, int]
    failures: Mapping[str, int]
    left_out: int

    @property
    def unjudged(self) -> str:
        """Why growth says nothing of leaks, if it does not."""
        if self.left_out > BEHIND * sum(self.statuses.values()):
            return "the service did not keep up with what it was asked, so that more was under way: lower --rate"
        if round(self.minutes[-1]) < LONG:
            return f"pools and caches may not be full yet: take {LONG:g} --minutes or more"
        return ""

    def is_bad(self, trends: Sequence[Trend]) -> bool:
        return bool(self.failures) or (not self.unjudged and any(each.grows for each in trends))

    def trends(self) -> list[Trend]:
        return [trend(measure, self.minutes, self.values[measure.name]) for measure in MEASURES]


class Sampler:
    """Looks at the process from outside, and at what it says of itself."""

    def __init__(self, pid: int, data: Path, client: httpx.AsyncClient, traffic: Traffic) -> None:
        self._process, self._data, self._client, self._traffic = psutil.Process(pid), data, client, traffic
        self.minutes = list[float]()
        self.values: dict[str, list[float]] = {measure.name: [] for measure in MEASURES}

    async def run(self, seconds: float) -> None:
        """Sample so often, until cancelled."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(seconds)
            sample = await self._sample()
            self.minutes.append((loop.time() - began) / 60)
            for name, value in zip(self.values, sample, strict=True):
                self.values[name].append(value)

    async def _sample(self) -> Sequence[float]:
        """In the order of the measures."""
        process, seconds = self._process, self._traffic.seen.taken()
        p50, p95 = (float(each) for each in 1000 * np.percentile(seconds, [50, 95])) if seconds else (np.nan, np.nan)
        page = (await self._client.get("/metrics")).text
        (tasks,) = re.findall(r"^winnow_tasks (\S+)$", page, re.M)
        with process.oneshot():
            memory, open_files, threads = process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()
        return memory, open_files, threads, float(tasks), folder_bytes(self._data) / 1e6, p50, p95


async def soak(service: Process, data: Path, minutes: float, rate: float, seed: int, documents: int = DOCUMENTS) -> Run:
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
    async with httpx.AsyncClient(base_url=service.client.base_url, timeout=PATIENCE, limits=limits) as client:
        traffic = Traffic(client, documents, seed)
        await traffic.fill()
        await traffic.try_all()
        sampler = Sampler(service.pid, data, client, traffic)
        sampling = asyncio.create_task(sampler.run(max(60 * minutes / SAMPLES, SHORTEST)))
        await traffic.run(rate, 60 * minutes)
        sampling.cancel()
        with suppress(asyncio.CancelledError):  # whatever else ended it: what was not looked at may have grown
            await sampling
    seen = traffic.seen
    return Run(sampler.minutes, sampler.values, dict(sorted(seen.statuses.items())), seen.failures, seen.left_out)


def page(heading: str, trends: Sequence[Trend]) -> str:
    figures = [(each.measure.name.capitalize(), _figure(each)) for each in trends]
    return sheet.page("What grows with time", heading, figures, [str(each) for each in trends])


def _figure(found: Trend) -> str:
    """What was sampled, lowest to highest, and the line through what counts of it."""
    points = tuple(plots.Point(each.minute, each.middle, each.low, each.high) for each in found.windows)
    ends = (found.start, found.start + found.minutes)
    lines = [
        plots.Line("sampled", points),
        plots.Line("trend", tuple(sheet.point(at, found.at(at)) for at in ends), 1),
    ]
    return plots.curves(lines, "minutes", found.measure.unit or found.measure.name, str(found))


def report(heading: str, run: Run, trends: Sequence[Trend]) -> str:
    told = ", ".join(f"{name} {amount:,}" for name, amount in run.statuses.items())
    wrong = [f"ANSWERS THAT NOBODY OUGHT TO GET: {dict(run.failures)}"] if run.failures else []
    unjudged = [f"Growth is not judged: {run.unjudged}.", ""] if run.unjudged else []
    left = f"{sum(run.statuses.values()):,} requests by step and status: {told}; {run.left_out:,} left out"
    return "\n".join([heading, "", *map(str, trends), "", *unjudged, left, *wrong])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0, help="steps a second")
    parser.add_argument("--models", choices=MODELS, default="fake")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "loadtest" / "results" / "soak", help="a folder")
    given = parser.parse_args()
    machine = this_machine()
    what = f"{given.minutes:g} minutes, {given.rate:g} steps a second, {given.models} models, seed {given.seed}"
    heading = f"{what}; {machine.processor}, {machine.cores} cores, commit {machine.commit}"
    print(heading, flush=True)
    with TemporaryDirectory() as folder, Process(Path(folder), **(SETTINGS | MODELS[given.models])) as service:
        service.await_ready()
        run = asyncio.run(soak(service, Path(folder), given.minutes, given.rate, given.seed))
        assert service.stop() == 0, "the service did not end well"
    trends = run.trends()
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "soak.txt").write_text(report(heading, run, trends) + "\n")
    (given.output / "soak.html").write_text(page(heading, trends))
    print(f"\n{report(heading, run, trends)}\n\nWritten to {given.output}.")
    sys.exit(int(run.is_bad(trends)))


if __name__ == "__main__":
    main()
