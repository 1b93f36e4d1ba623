"""How a service that was told to stop ends, whatever there is still to do."""

from __future__ import annotations

import asyncio
import os
from threading import Timer

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import respond
from app.errors import Unavailable
from app.terminal.client import HUNG

logger = structlog.get_logger()

SIGNALLED = 128
"""By custom the exit code of what a signal ended, with the signal's number."""

CLOSING_SECONDS = 30.0
"""How long closing may take once requests have had their time: a snapshot of a million chunks takes some seconds."""


class CutOff:
    """Tells those why whose requests end before they are answered: uvicorn cancels them when patience is at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_and_know(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_know)
        except asyncio.CancelledError:
            if begun:  # uvicorn closes the connection on what is not complete; to raise this would print a traceback
                return
            why = Unavailable("The service is stopping, and this took longer than it waits. Ask again.")
            await respond(Request(scope), why)(scope, receive, send)


def end_within(seconds: float) -> None:
    """End the process if it has not ended by itself by then."""
    late = Timer(seconds, _end_late)
    late.daemon = True
    late.start()


def end_at_once(code: int = HUNG) -> None:
    """As a crash would, which loses nothing: a thread that hangs can't be waited for. Who supervises starts anew."""
    os._exit(code)


def _end_late() -> None:
    logger.error("the service could not be closed in time")
    end_at_once()
