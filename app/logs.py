"""Log lines: one event with its facts each, for people on a terminal and as JSON elsewhere.

Nothing of a caller's text is in them unless that was asked for: an error's message may quote what it could not read, so
that errors show as their kind and the place where they arose.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from app.settings import Settings

logger = structlog.get_logger()


class Lines(structlog.PrintLogger):
    """A line that can't be written, where the log's disk is full, is lost: nobody's request fails for it."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def configure(settings: Settings) -> None:
    """Set up logging for this process; what libraries log goes the same way."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *(_in_full if settings.log_texts else _without_messages),
    ]
    last: Processor = (
        structlog.processors.JSONRenderer()
        if _as_json(settings)
        # It gets tracebacks as text; its own, which it would rather make, show local variables: callers' texts.
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda: Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(last, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    threading.excepthook = _tell_thread


def tell_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the event loop has to tell, whose own line would quote the error."""
    logger.error("the event loop complains", what=context["message"], exc_info=context.get("exception"))


def _tell_thread(ended: threading.ExceptHookArgs) -> None:
    name = ended.thread.name if ended.thread else None
    logger.error("a thread broke off", thread=name, exc_info=ended.exc_value)


def _as_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def _by_message(_: object, __: str, event: EventDict) -> EventDict:
    return {name: str(value) if isinstance(value, BaseException) else value for name, value in event.items()}


def _by_place(_: object, __: str, event: EventDict) -> EventDict:
    return {name: _places(value) if isinstance(value, BaseException) and name != "exc_info" else value
            for name, value in event.items()}  # fmt: skip


def _traced(exc_info: ExcInfo) -> str:
    """A traceback without messages. The lines that it shows are of the program."""
    told = [[*traceback.format_tb(each.__traceback__), _kind(each)] for each in _chain(exc_info[1])]
    return "\n\n".join("".join(["Traceback (most recent call last):\n", *lines]) for lines in told)


def _places(error: BaseException) -> str:
    return " after ".join(f"{_kind(each)}{_place(each.__traceback__)}" for each in reversed(list(_chain(error))))


def _place(where: TracebackType | None) -> str:
    frames = traceback.extract_tb(where)
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _kind(error: BaseException) -> str:
    """Of what the system refuses, the reason too."""
    reason = f" {errno.errorcode.get(error.errno or 0, '')}" if isinstance(error, OSError) else ""
    return f"{type(error).__module__}.{type(error).__qualname__}{reason}".removeprefix("builtins.")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and before it those that led to it."""
    if error is None:
        return
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    yield from _chain(before)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _chain(each)
    yield error


_in_full = (_by_message, structlog.processors.format_exc_info)
_without_messages = (_by_place, structlog.processors.ExceptionRenderer(_traced))
