"""The observer: hears of every search, and in idle time looks at some of them once more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import random
from time import monotonic

import structlog

from app.errors import Conflict
from app.quality.observe import keep
from app.quality.observe.depth import Sounding
from app.quality.observe.drift import LEAST, DriftWatch
from app.quality.observe.keep import Kept, KeptReference
from app.quality.observe.pace import Pace
from app.quality.observe.recall import RecallWatch
from app.quality.observe.types import Report
from app.quality.observe.watched import Watched
from app.settings import Settings
from app.telemetry import Metrics
from app.witness import SecondLook, Sighting, Traffic

logger = structlog.get_logger()

INBOX = 64
"""Searches whose hits stay in memory until their figures are taken, a moment later."""

WAITING = 256
"""Searches that wait to be looked at once more. When there are more, the oldest goes: figures are of lately."""

AT_ONCE = 4
"""Pairs that are reranked before searches get a chance to overtake."""

TELL_SECONDS = 1.0
CENTRE_SECONDS = 600.0
"""How old the mean of all vectors may be."""


class Observer:
    """Watches the collections that are open."""

    def __init__(self, look: SecondLook, traffic: Traffic, settings: Settings, metrics: Metrics, folder: Path) -> None:
        self.traffic = traffic
        self._look = look
        self._settings = settings
        self._metrics = metrics
        self._folder = folder
        self._pace = Pace(traffic, settings.observe_time, metrics.observe_seconds)
        self._watched: dict[str, Watched] = {}
        self._meeting = asyncio.Lock()
        self._inbox: deque[Sighting] = deque()
        self._waiting: deque[Sighting] = deque()
        self._heard, self._sampled = asyncio.Event(), asyncio.Event()
        metrics.ann_recall_objective.set(settings.recall_objective)

    @property
    def watches(self) -> bool:
        return self._settings.observe_share > 0

    def saw(self, sighting: Sighting) -> None:
        """Does not wait, and does nothing yet."""
        if len(self._inbox) < INBOX:
            self._inbox.append(sighting)
            self._heard.set()
        elif watched := self._watching(sighting):
            watched.count("dropped")

    async def run(self) -> None:
        if self.watches:
            async with asyncio.TaskGroup() as all_of:
                for work in (self._note_all, self._look_at_all, self._tell_all):
                    all_of.create_task(work())

    async def reports(self, wanted: Callable[[str], bool]) -> list[Report]:
        """Of the collections that are wanted, by their names."""
        await self._meet()
        return [self._report(self._watched[name]) for name in sorted(self._watched) if wanted(name)]

    async def refer(self, collection: str) -> Report:
        """Take the searches of lately for the reference."""
        await self._meet()
        if (watched := self._watched.get(collection)) is None:
            raise Conflict("No searches are watched: WINNOW_OBSERVE_SHARE is 0.")
        if not watched.refer():
            raise Conflict(
                f"There are fewer than {LEAST} searches of one kind since the last reference; come back later."
            )
        await self._keep(watched)
        return self._report(watched)

    def _watching(self, sighting: Sighting) -> Watched | None:
        watched = self._watched.get(sighting.collection)
        return watched if watched and watched.number == sighting.number else None

    def _watches_on(self, watched: Watched) -> bool:
        """Whether it was not dropped while a second look waited: its metrics and its file would come back for good."""
        return self._watched.get(watched.name) is watched

    def _report(self, watched: Watched) -> Report:
        waiting = sum(each.number == watched.number for each in self._waiting)
        return watched.report(waiting, lambda candidates: self._look.takes(watched.name, candidates))

    async def _meet(self) -> None:
        """Begin with collections that are new, and end with those that are gone."""
        async with self._meeting:
            now = dict(self._look.open()) if self.watches else {}
            for name, watched in list(self._watched.items()):
                if now.get(name) != watched.number:
                    del self._watched[name]
                    self._metrics.forget(name)
                    await asyncio.to_thread(keep.forget, self._folder, watched.number)
            for name, number in now.items():
                if name not in self._watched:
                    kept = await asyncio.to_thread(keep.kept, self._folder, number, name)
                    self._watched[name] = self._begin(name, number, kept)

    def _begin(self, name: str, number: int, kept: Kept | None) -> Watched:
        s = self._settings
        tuned = kept.ef if kept and s.tune_ef and kept.ef_configured == s.index_ef else None
        if tuned:
            self._look.tune(name, tuned)
        recall = RecallWatch(s.recall_objective, s.index_ef, tuned=s.tune_ef, ef=tuned or self._look.effort(name))
        drift = DriftWatch(kept.reference.reference() if kept and kept.reference else None)
        return Watched(name, number, recall, drift, s.query_reserve, self._metrics)

    async def _keep(self, watched: Watched) -> None:
        reference = watched.drift.reference
        kept = Kept(
            collection=watched.name,
            ef=watched.recall.ef,
            ef_configured=self._settings.index_ef,
            reference=KeptReference.of(reference) if reference else None,
        )
        try:
            await asyncio.to_thread(keep.keep, self._folder, watched.number, kept)
        except OSError as error:
            logger.error("what is known of quality can't be kept", collection=watched.name, error=error)

    async def _note_all(self) -> None:
        """Take the figures of every search."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            while self._inbox:
                await self._note(self._inbox.popleft())
                await asyncio.sleep(0)

    async def _note(self, sighting: Sighting) -> None:
        if sighting.collection not in self._watched:
            await self._meet()
        if (watched := self._watching(sighting)) is None:
            return
        if watched.note(sighting):
            await self._keep(watched)
        if random() < self._settings.observe_share:
            if len(self._waiting) == WAITING:
                dropped = self._waiting.popleft()
                if forgone := self._watching(dropped):
                    forgone.count("dropped")
            self._waiting.append(replace(sighting, hits=()))
            self._sampled.set()

    async def _look_at_all(self) -> None:
        """Look at those that were sampled, one at a time."""
        while True:
            await self._sampled.wait()
            self._sampled.clear()
            while self._waiting:
                sighting = self._waiting.popleft()
                if watched := self._watching(sighting):
                    await self._look_at(watched, sighting)

    async def _look_at(self, watched: Watched, sighting: Sighting) -> None:
        try:
            await self._find_centre(watched)
            await self._compare(watched, sighting)
            if sighting.reranked and not sighting.late:
                await self._dive(watched, sighting)
        except (
            Exception
        ) as error:  # a model or an index may raise anything: it is counted, and the next one is looked at
            if self._watches_on(watched):
                watched.count("failed")
            logger.warning("a search can't be looked at once more", collection=watched.name, error=error)

    async def _find_centre(self, watched: Watched) -> None:
        if monotonic() - watched.centred_at > CENTRE_SECONDS:
            async with self._pace.turn():
                watched.centre, watched.centred_at = await self._look.centre(watched.name), monotonic()

    async def _compare(self, watched: Watched, sighting: Sighting) -> None:
        async with self._pace.turn():
            beside = await self._look.beside(sighting.asked, watched.recall.efforts)
        if not self._watches_on(watched):
            return
        watched.compared(beside)
        before = watched.recall.ef
        if watched.recall.retuned():
            self._look.tune(watched.name, watched.recall.ef)
            logger.info("effort of the graph changed", collection=watched.name, before=before, now=watched.recall.ef)
            await self._keep(watched)

    async def _dive(self, watched: Watched, sighting: Sighting) -> None:
        async with self._pace.turn():
            dive = await self._look.dive(sighting.asked, self._settings.observe_depth)
        while dive and dive.left:
            async with self._pace.turn() as lap:
                await dive.read(AT_ONCE, lap)
        if dive and dive.depth and self._watches_on(watched):
            watched.sounded(Sounding(dive.candidates, sighting.reranked, dive.depth, dive.places(), dive.missed()))

    async def _tell_all(self) -> None:
        """Bring gauges up to date, a collection at a time."""
        while True:
            await self._meet()
            for watched in list(self._watched.values()):
                watched.tell()
                await asyncio.sleep(0)
            await asyncio.sleep(TELL_SECONDS)
