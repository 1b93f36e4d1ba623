"""`winnow serve`: uvicorn around the app, with errors at start and signals as an operator expects them."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
from difflib import get_close_matches
from importlib.metadata import version
from math import ceil

import uvicorn
import uvloop
from fastapi import FastAPI
from rich.console import Console

from app import logs
from app.settings import CONFIG_VARIABLE, Settings
from app.terminal.client import UNUSABLE, URL_VARIABLE, Failure, create, opened, stderr

EVERYWHERE = ("0.0.0.0", "::")


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, and return: both are a way to end well."""
    logs.configure(settings)
    _doubt_variables()
    sockets = _bind(settings.host, settings.port)
    app = create(settings)
    server = Server(_config(app, settings), settings)
    for each in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises a signal again once it has stopped, which would end us with a code other than 0.
        signal.signal(each, server.handle_exit)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(server, app, settings, sockets))


class Server(uvicorn.Server):
    """Tells where it listens once it does."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # someone was faster between bind and listen
            raise _taken(self._settings.host, self._settings.port, error) from error
        _announce(self._settings)


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The lifespan is ours: uvicorn would print a traceback where there is one sentence to say."""
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=ceil(settings.shutdown_timeout),
    )


async def _run(server: Server, app: FastAPI, settings: Settings, sockets: list[socket.socket]) -> None:
    async with opened(app, settings):
        gc.freeze()  # models and modules stay: a full collection then has little to look at, and searches wait less
        if not server.should_exit:
            await server.serve(sockets)


def _bind(host: str, port: int) -> list[socket.socket]:
    """Addresses of our own before anything is loaded; they listen when there is something to hear them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_socket(family, address) for family, address in dict.fromkeys((each[0], each[4]) for each in found)]
    except OSError as error:
        raise _taken(host, port, error) from error


def _socket(family: int, address: tuple[str | int, ...] | tuple[int, bytes]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(address)
    return made


def _taken(host: str, port: int, error: OSError) -> Failure:
    if error.errno == errno.EADDRINUSE:
        advice = "Stop what listens there, or choose another with --port or WINNOW_PORT."
        return Failure(f"Port {port} on {host} is in use. {advice}", UNUSABLE)
    return Failure(f"Winnow can't listen on {host}, port {port}: {error.strerror}.", UNUSABLE)


def _announce(settings: Settings) -> None:
    everywhere = settings.host in EVERYWHERE
    host = "localhost" if everywhere else f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    lines = (
        f"Winnow {version('winnow')} listens on {url}{' and every other interface' if everywhere else ''}",
        f"  docs     {url}/docs",
        f"  metrics  {url}/metrics",
        f"  data     {settings.data_dir.resolve()}",
    )
    Console(highlight=False, markup=False).print(*lines, sep="\n", soft_wrap=True)


def _doubt_variables() -> None:
    """A misspelt setting in the environment would otherwise have no effect and no one would know."""
    known = {f"WINNOW_{name.upper()}" for name in Settings.model_fields} | {CONFIG_VARIABLE, URL_VARIABLE}
    for name in sorted(each for each in os.environ if each.startswith("WINNOW_") and each not in known):
        if near := get_close_matches(name, known, n=1, cutoff=0.85):
            stderr.print(f"[yellow]{name} is not a setting. Is {near[0]} meant?[/]", soft_wrap=True)
