"""Whether the service can be trusted: all is open, nothing is stuck, and both stages give a known answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from time import monotonic

import numpy as np
import structlog

from app.errors import Overloaded
from app.service.collections import Collections
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher
from app.stores.room import Room
from app.stores.sparse import InvertedIndex
from app.telemetry import Lap, Metrics
from app.types import STANDBY, Expansion
from app.watchdog import Watchdog
from models.types import Scores

logger = structlog.get_logger()

QUESTION = "Which planet is known for its rings?"
TEXTS = (
    "The planet Saturn is known for its rings of ice and rock.",
    "Bread rises because yeast turns sugar into gas.",
    "The treaty was signed by both ministers in the spring.",
    "A violin has four strings and is played with a bow.",
)
"""The first one answers the question; any model fit for retrieval puts it first."""

OPENING = "collections are being opened"
UNASKED = "the models have not answered the known question yet"

PAUSE_SECONDS = 15.0
PATIENCE_SECONDS = 60.0
"""A model that is busy answers late; one that has not answered for so long is taken to hang."""


class Readiness:
    """Asks the known question every now and then, and knows at any moment what stands in the way."""

    def __init__(
        self,
        collections: Collections,
        room: Room,
        embedder: Embedder,
        ranker: Ranker,
        weigher: Weigher | None,
        watchdog: Watchdog,
        metrics: Metrics,
        threads: Executor,
    ) -> None:
        self._collections = collections
        self._room = room
        self._embedder = embedder
        self._ranker = ranker
        self._weigher = weigher
        self._watchdog = watchdog
        self._metrics = metrics
        self._threads = threads
        self._opening: str | None = OPENING
        self._wrong: str | None = UNASKED
        self._answered = monotonic()

    async def run(self) -> None:
        """Open the collections, then keep asking."""
        opening = [self._open()] if self._opening == OPENING else []
        await asyncio.gather(*opening, self._keep_asking())

    @property
    def starting(self) -> bool:
        """Whether it will be ready by itself, as far as one can tell."""
        return self._opening == OPENING or self._wrong == UNASKED

    def reasons(self) -> list[str]:
        """Why the service is not ready; nothing when it is."""
        reasons = [self._opening] if self._opening else []
        reasons += [f"collection '{name}': {why}" for name, why in self._troubles(standbys=False)]
        reasons += self._watchdog.troubles()
        reasons += [self._wrong] if self._wrong else []
        silent = monotonic() - self._answered
        if silent > PATIENCE_SECONDS:
            reasons.append(f"the models have not answered for {silent:.0f} seconds")
        self._metrics.ready.set(not reasons)
        return reasons

    def warnings(self) -> list[str]:
        """What is wrong and keeps no search from being answered."""
        return [str(self._room.refusal())] if self._room.lacking else []

    def standbys(self) -> list[str]:
        """Likewise of standbys; it names collections, as the reasons do."""
        return [f"collection '{name}': {why}" for name, why in self._troubles(standbys=True)]

    def _troubles(self, *, standbys: bool) -> list[tuple[str, str]]:
        """No search depends on a standby."""
        every = self._collections.troubles().items()
        return [(name, why) for name, why in every if name.endswith(STANDBY) is standbys]

    async def _open(self) -> None:
        try:
            await self._collections.open()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever it is: an opening that failed must not look like one that lasts
            logger.exception("collections can't be opened")
            self._opening = f"collections can't be opened: {error!r}"
        else:
            self._opening = None
            logger.info("collections are open")

    async def _keep_asking(self) -> None:
        while True:
            try:
                self._wrong = await self._ask()
                self._answered = monotonic()
            except Overloaded:
                self._answered = monotonic()  # a full queue says nothing of the models; the watchdog would
            except Exception as error:  # a model may raise anything, and whatever it is, it is no answer
                self._wrong = f"the known question failed: {error}"
            self.reasons()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self) -> str | None:
        """What is wrong with the models' answers, if anything. Asked as a search is: it waits for no ingest."""
        vector = (await self._embedder.query(QUESTION, self._threads, Lap(), fresh=True)).vector
        texts = await self._embedder.aside(TEXTS, self._threads, Lap(), fresh=True)
        if np.argmax(texts @ vector):
            return f"the encoder {self._embedder.encoder.name} does not find a known answer"
        if self._weigher and np.argmax(await self._weighed(self._weigher)):
            return f"the sparse encoder {self._weigher.encoder.name} does not find a known answer"
        pairs = await self._ranker.read(QUESTION, TEXTS, "report", self._threads)
        scored = await self._ranker.score(pairs, Lap(), fresh=True)
        if np.argmax(scored.scores):
            return f"the reranker {self._ranker.reranker.name} does not put a known answer first"
        return None

    async def _weighed(self, weigher: Weigher) -> Scores:
        """What the texts have to do with the question by their terms."""
        query, _ = await weigher.query(QUESTION, self._threads, Lap(), fresh=True)
        texts = await weigher.aside(TEXTS, self._threads, Lap())
        index = InvertedIndex()
        index.apply([Expansion(0, chunk, vector) for chunk, vector in enumerate(texts)])
        return index.scores(query, np.arange(len(texts)))
