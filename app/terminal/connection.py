"""A connection as uvicorn has it, which waits for no client for longer, and holds no more of it, than is allowed.

uvicorn itself waits for ever: for a first byte, for the end of a head, for a client to read its answer. A head's length
it does not look at, nor at how many requests a client sends ahead of its answers.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Transport
from http import HTTPStatus
from math import ceil
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.problems import before_a_request
from app.errors import HeadTooLarge, Malformed, Overloaded, TooSlow, WinnowError
from app.settings import Settings
from app.telemetry import Cut, Metrics
from app.terminal.stopping import CutOff

AHEAD = 16
"""Requests that a client may send before it has the answer to the first of them."""


class Config(uvicorn.Config):
    """What a server's connections know. The lifespan is ours: uvicorn would print a traceback instead of a sentence."""

    def __init__(self, app: FastAPI, settings: Settings, most: int) -> None:
        super().__init__(
            CutOff(app),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.idle_timeout,
            timeout_graceful_shutdown=ceil(settings.shutdown_timeout),
        )
        self.settings, self.most = settings, most
        self._state = app.state

    @property
    def metrics(self) -> Metrics:
        """Of the engine, which is open before anybody connects."""
        metrics: Metrics = self._state.engine.metrics
        return metrics


class Connection(HttpToolsProtocol):
    """Looked at once a second by its server."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, Config)
        self._settings, self._most, self._metrics = config.settings, config.most, config.metrics
        self._awaited: float | None = self.loop.time()
        """Since when a head is waited for; and what has come since the last head, or piece of a body."""
        self._come = 0
        self._begun = self._refused = False
        """Whether a part of a head has come; whether the client was sent away, and is only let to hear of it."""
        self._error: WinnowError | None = None
        self._answering: RequestResponseCycle | None = None
        """What is being answered, or was last; others may wait behind it."""
        self._unsent, self._moved = 0, 0.0
        """Bytes that the client has not taken, and when it last took some."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._metrics.connections.set(len(self.connections))
        if len(self.connections) > self._most:
            told = f"{self._most} connections are open, the most that are allowed."
            self._refuse("crowded", Overloaded(told, retry_after=1.0))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._metrics.connections.set(len(self.connections))
        if self._answering:  # uvicorn tells the last request, and this one would write to nobody
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._awaited is None and self._at_rest:
            self._awaited = self.loop.time()
        self._come += len(data)
        super().data_received(data)
        if self._come > self._settings.max_head_bytes and not self._refused:
            self._refuse("large-head", self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._settings.max_head_bytes:
            self._error = self._too_large()
            raise self._error
        if len(self.pipeline) >= AHEAD:
            self._error = Overloaded(f"More than {AHEAD} requests came ahead of their answers.", retry_after=1.0)
            raise self._error
        self._awaited, self._come, self._begun = None, 0, False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._come = 0
        super().on_body(body)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._moved = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """What came can't be read, or one of the above refused it."""
        if self._error is None:
            self._refuse("malformed", Malformed("What came is not an HTTP request, or its body is not what it says."))
        else:
            self._refuse("large-head" if isinstance(self._error, HeadTooLarge) else "ahead", self._error)

    def check(self) -> None:
        """End it if its client keeps us waiting."""
        now = self.loop.time()
        if self._refused:
            self.transport.close()
        elif self._awaited is not None and now - self._awaited > self._settings.header_timeout:
            self._give_up()
        self._check_reading(now)

    def _give_up(self) -> None:
        """A client that had begun is told; of one that never did, nothing more is wanted."""
        if self._begun:
            told = f"The request's headers did not come within {self._settings.header_timeout:g} seconds."
            self._refuse("slow-head", TooSlow(told))
        else:
            self._cut("idle")
            self.transport.close()

    def _check_reading(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._moved = now
        self._unsent = unsent
        if unsent and now - self._moved > self._settings.send_timeout:
            self._cut("unread")
            self.transport.abort()

    def _refuse(self, why: Cut, error: WinnowError) -> None:
        """Say why, and hear no more; to close at once would throw the answer away with what the client still sends."""
        self._cut(why)
        self._refused = True
        if self._may_speak and not self.transport.is_closing():
            answer = before_a_request(error, self._metrics)
            lines = [b"%s: %s" % each for each in [*answer.raw_headers, (b"connection", b"close")]]
            status = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()
            self.transport.write(b"\r\n".join([status, *lines, b"", bytes(answer.body)]))
            self.transport.write_eof()
        else:
            self.transport.close()

    def _cut(self, why: Cut) -> None:
        self._metrics.cut_connections.labels(why).inc()

    def _too_large(self) -> HeadTooLarge:
        most = self._settings.max_head_bytes
        return HeadTooLarge(f"The request's line and headers are longer than {most} bytes.")

    @property
    def _at_rest(self) -> bool:
        """Whether nothing is being answered."""
        return not self.pipeline and (self._answering is None or self._answering.response_complete)

    @property
    def _may_speak(self) -> bool:
        """Whether an answer would be taken for one to what is wrong, and not for one to a request before."""
        if self._answering is None or self._at_rest:
            return True
        return not (self._begun or self.pipeline or self._answering.response_started)
