"""`winnow serve`: uvicorn around the app, with errors at start and signals as an operator expects them."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib.metadata import version
from ipaddress import ip_address
from types import FrameType

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from rich.console import Console

from app import logs
from app.errors import Invalid
from app.settings import CONFIG_VARIABLE, Settings
from app.stores.keys import KeyFile
from app.terminal.client import KEY_VARIABLE, UNUSABLE, URL_VARIABLE, Failure, create, opened, stderr
from app.terminal.connection import Config, Connection
from app.terminal.stopping import CLOSING_SECONDS, SIGNALLED, end_at_once, end_within

logger = structlog.get_logger()

EVERYWHERE = ("0.0.0.0", "::")
M_ARENA_MAX, ARENAS = -8, 2
"""The name of the option, in glibc's malloc.h; and how many heaps there may be."""
DESCRIPTORS = 1024
"""What is kept for anything but connections: indexes, and uploads of many files."""


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, and return: both are a way to end well."""
    logs.configure(settings)
    _keep_memory_together()
    _doubt_variables()
    sockets = _bind(settings.host, settings.port)
    _check_reach(settings, sockets)
    app = create(settings)
    server = Server(Config(app, settings, _most_connections(settings.max_connections)), settings)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, server.handle_exit)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(server, app, settings, sockets))


class Server(uvicorn.Server):
    """Tells where it listens once it does, looks after its connections, and stops as an operator expects."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings
        self.is_open = False
        """Whether the service is, so that there is anything to close."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # someone was faster between bind and listen
            raise _taken(self._settings.host, self._settings.port, error) from error
        _announce(self._settings)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, says uvicorn; its connections are all ours."""
        if counter % 10 == 0:
            for each in list(self.server_state.connections):
                if isinstance(each, Connection):
                    each.check()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are heard from the start to the end. uvicorn would raise them again once it has stopped, which would end
        us with a code other than 0."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets requests end. The second, or one that takes too long, ends all as a crash would, which
        loses nothing; so does one that comes while models are being converted, which nobody can break off."""
        if self.should_exit:
            end_at_once(SIGNALLED + sig)
        self.should_exit = True
        if not self.is_open:
            end_at_once(0)
        end_within(self._settings.shutdown_timeout + CLOSING_SECONDS)


async def _run(server: Server, app: FastAPI, settings: Settings, sockets: list[socket.socket]) -> None:
    asyncio.get_running_loop().set_exception_handler(logs.tell_loop)
    async with opened(app, settings):
        server.is_open = True
        app.state.engine.watchdog.when_hung(end_at_once)
        gc.freeze()  # models and modules stay: a full collection then has little to look at, and searches wait less
        if not server.should_exit:
            await server.serve(sockets)


def _keep_memory_together() -> None:
    """glibc gives threads heaps of their own, up to 8 a core, which keep what is freed: that is more than is in use."""
    with suppress(AttributeError):  # another C library has no such thing
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def _most_connections(wanted: int) -> int:
    """As many as descriptors can be had for, beside those for data, models and files; what is missing is told."""
    held, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS
    allowed = needed if most == resource.RLIM_INFINITY else min(needed, most)
    if held != resource.RLIM_INFINITY and held < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    connections = min(wanted, max(allowed - DESCRIPTORS, allowed // 2))
    if connections < wanted:
        logger.warning("fewer connections than asked for: raise the limit of open files", connections=connections)
    return connections


def _bind(host: str, port: int) -> list[socket.socket]:
    """Addresses of our own before anything is loaded; they listen when there is something to hear them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_socket(family, address) for family, address in dict.fromkeys((each[0], each[4]) for each in found)]
    except OSError as error:
        raise _taken(host, port, error) from error
    except UnicodeError as error:
        raise Failure(f"Winnow can't listen on {host}, port {port}: no machine has such a name.", UNUSABLE) from error


def _socket(family: int, address: tuple[str | int, ...] | tuple[int, bytes]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(address)
    return made


def _check_reach(settings: Settings, sockets: list[socket.socket]) -> None:
    """Without keys, only this machine is listened to, unless that was asked for in so many words."""
    if _has_keys(settings) or all(ip_address(each.getsockname()[0]).is_loopback for each in sockets):
        return
    if not settings.open:
        raise Failure(
            f"There are no keys, so whoever reaches {settings.host} could read and change everything. Make one with "
            "`winnow keys create NAME --scope search,ingest`, or say WINNOW_OPEN=true if something else keeps "
            "strangers away.",
            UNUSABLE,
        )
    logger.warning("there are no keys: whoever reaches this may read and change everything", host=settings.host)


def _has_keys(settings: Settings) -> bool:
    try:
        return bool(KeyFile(settings.keys_file).read())
    except Invalid as error:
        raise Failure(str(error), UNUSABLE) from error


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
    known = {f"WINNOW_{name.upper()}" for name in Settings.model_fields} | {CONFIG_VARIABLE, URL_VARIABLE, KEY_VARIABLE}
    for name in sorted(each for each in os.environ if each.startswith("WINNOW_") and each not in known):
        if near := get_close_matches(name, known, n=1, cutoff=0.85):
            stderr.print(f"[yellow]{name} is not a setting. Is {near[0]} meant?[/]", soft_wrap=True)
