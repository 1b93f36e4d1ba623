"""Tasks that nobody waits for, and that may not end without anyone knowing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context

import structlog

from app.telemetry import Metrics
from app.types import Collection

logger = structlog.get_logger()

FIRST_PAUSE, LAST_PAUSE = 1.0, 300.0


Work = Callable[[], Awaitable[None]]


class Background:
    """Work that is done once it returns. If it breaks off, that is told and counted, and it is begun anew.

    It is held for as long as it runs and no longer: whoever has it done holds this, and all would wait for the garbage
    collector to be let go of.
    """

    def __init__(self, worker: str, metrics: Metrics, of: Collection | None = None) -> None:
        self._worker, self._of = worker, of
        self._restarts = metrics.restarts.labels(worker)
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Work) -> None:
        # A context of its own, since it may outlive the request that began it.
        self._task = asyncio.create_task(self._run(work), name=self._worker, context=Context())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self, work: Work) -> None:
        pause = FIRST_PAUSE
        while not await self._done(work):
            self._restarts.inc()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _done(self, work: Work) -> bool:
        """Whether the work came to its end."""
        try:
            await work()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic in a Rust extension is no Exception, nor is a stray cancellation
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            facts = {"collection": self._of.name} if self._of else {}
            logger.exception("work in the background broke off", worker=self._worker, **facts)
            return False
        return True
