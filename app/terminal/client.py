"""How commands reach the service: over HTTP, be it elsewhere or opened in this very process."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from app import logs
from app.errors import StartupError
from app.settings import CONFIG_VARIABLE, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

URL_VARIABLE = "WINNOW_URL"
KEY_VARIABLE = "WINNOW_API_KEY"
"""From the environment alone: arguments are seen by all who list processes."""

REFUSED, UNUSABLE, UNREACHABLE, HUNG = 1, 2, 3, 4
"""Exit codes: the service said no; settings or arguments are wrong; there is no connection; the service hung."""

PATIENCE = 120.0
"""Seconds that a busy service is asked again for, as long as each of its answers allows it."""

TIMEOUT = httpx.Timeout(10.0, read=300.0, write=300.0)
"""Reading takes as long as the service may think: splitting large documents does not end in a moment."""

UNHURRIED = httpx.Timeout(10.0, read=3600.0)
"""For what the service copies, builds or checks first."""

LAST_PORT = 65_535

stderr = Console(stderr=True, highlight=False)


class Failure(Exception):
    """Ends a command: the message is for a person, the code for a script."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


class Refused(Failure):
    """The service's answer was no."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(_told(response))
        self.status = response.status_code
        self.wait = _wait(response.headers.get("retry-after", ""))


@dataclass(frozen=True, slots=True)
class Target:
    """Which service is meant: one that runs at an address, or the data of a folder."""

    url: str | None = None
    data_dir: Path | None = None

    def address(self) -> str | None:
        """A folder that was named comes before an address from the environment."""
        if self.url and self.data_dir:
            raise Failure("--url and --data-dir exclude each other: a running service knows its own data.", UNUSABLE)
        url = self.url or (None if self.data_dir else os.environ.get(URL_VARIABLE))
        return url if not url or "://" in url else f"http://{url}"


class Client:
    """Asks the service, and turns whatever is not a good answer into a Failure."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self._http = http
        self._name = name

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._reaching():
            response = await self._http.request(method, path, **request)
        if not response.is_success:
            raise Refused(response)
        return response

    @asynccontextmanager
    async def stream(self, path: str, **request: Any) -> AsyncIterator[httpx.Response]:
        """An answer that is read as it comes, however long the service takes to begin."""
        with self._reaching():
            async with self._http.stream("GET", path, timeout=UNHURRIED, **request) as response:
                if not response.is_success:
                    await response.aread()
                    raise Refused(response)
                yield response

    async def get(self, path: str, **request: Any) -> Any:
        return read_json(await self.ask("GET", path, **request))

    async def patiently(self, method: str, path: str, tell: Callable[[str], None], **request: Any) -> httpx.Response:
        """Ask again for as long as the service asks for patience."""
        deadline = monotonic() + PATIENCE
        while True:
            try:
                return await self.ask(method, path, **request)
            except Refused as refusal:
                if refusal.status not in (429, 503) or monotonic() + refusal.wait > deadline:
                    raise
                tell(f"the service is busy, asking again in {refusal.wait:g} s")
                await asyncio.sleep(refusal.wait)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            why = str(error).rstrip(".") or type(error).__name__
            told = f"{self._name} can't be reached: {why}. Is `winnow serve` running there?"
            raise Failure(told, UNREACHABLE) from error

    async def readiness(self) -> dict[str, Any]:
        """What /readyz says, be it yes or no; Refused if it says neither, since there are too many others."""
        with self._reaching():
            response = await self._http.get("/readyz")
        if response.status_code not in (200, 503):
            raise Refused(response)
        readiness = read_json(response)
        if not isinstance(readiness, dict) or "reasons" not in readiness:
            raise Refused(response)
        return readiness


@asynccontextmanager
async def connect(target: Target, *, creates: bool = False) -> AsyncIterator[Client]:
    """A client of the service at an address or, without one, of the same service opened here."""
    async with AsyncExitStack() as stack:
        if url := target.address():
            yield Client(await stack.enter_async_context(_http(url, headers=authorization())), url)
            return
        settings = read_settings(data_dir=target.data_dir)
        if not creates and not (settings.data_dir / "winnow.db").exists():
            raise Failure(
                f"There is no data in {settings.data_dir.resolve()}. Ingest some, or name another folder with "
                "--data-dir, or a running service with --url.",
                UNUSABLE,
            )
        logs.configure(settings.model_copy(update={"log_level": _quieter(settings.log_level)}))
        app = create(settings, private=True)
        with stderr.status("loading models") as status:
            await stack.enter_async_context(opened(app, settings))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = Client(await stack.enter_async_context(_http("http://winnow", transport)), str(settings.data_dir))
            await _await_ready(client, status.update)
        yield client


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Let a command that fails say so in a sentence and end with the right exit code."""
    try:
        yield
    except (Failure, UnicodeEncodeError) as error:
        failure = _no_text(error) if isinstance(error, UnicodeEncodeError) else error
        stderr.print(f"[red]winnow:[/] {escape(str(failure))}", soft_wrap=True)
        raise typer.Exit(failure.code) from error


def read_json(response: httpx.Response) -> Any:
    return _read(response, response.content)


def read_lines(response: httpx.Response) -> list[Any]:
    return [_read(response, line) for line in response.content.splitlines()]


def _read(response: httpx.Response, content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Failure(f"{response.url} does not answer as Winnow does: is it another service?", UNREACHABLE) from None


def create(settings: Settings, *, private: bool = False) -> FastAPI:
    from app.main import create_app  # takes a second, which --help and --url need not pay

    try:
        return create_app(settings, private=private)
    except StartupError as error:
        raise Failure(str(error), UNUSABLE) from error


@asynccontextmanager
async def opened(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """The service itself; what keeps it from opening becomes a sentence."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(app.router.lifespan_context(app))
        except StartupError as error:
            raise Failure(str(error), UNUSABLE) from error
        except OSError as error:
            raise Failure(
                f"Winnow can't start: {error}. Is {settings.data_dir} a folder that may be written to?", UNUSABLE
            ) from error
        yield


def read_settings(**given: Any) -> Settings:
    """Flags before the environment before the file; what is wrong is named with the place it comes from."""
    given = {name: value for name, value in given.items() if value is not None}
    file = Path(os.environ.get(CONFIG_VARIABLE, "winnow.toml"))
    if CONFIG_VARIABLE in os.environ and not file.is_file():
        raise Failure(f"There is no settings file {file}: check --config or {CONFIG_VARIABLE}.", UNUSABLE)
    try:
        return Settings(**given)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Failure(f"{file} can't be read as TOML: {error}.", UNUSABLE) from error
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise Failure("\n".join(_setting_fault(each, given, file) for each in found), UNUSABLE) from error


def _setting_fault(found: Mapping[str, Any], given: Mapping[str, Any], file: Path) -> str:
    name = str(found["loc"][0])
    if name not in Settings.model_fields:
        near = get_close_matches(name, Settings.model_fields, n=1)
        return f"{name} in {file} is not a setting: " + (f"is {near[0]} meant?" if near else "remove it.")
    field = Settings.model_fields[name]
    place = f"--{name.replace('_', '-')}" if name in given else _variable(name) or f"{name} in {file}"
    why = found["msg"].removeprefix("Input ")
    return f"{place} {why}, not {found['input']!r}. {field.description} By default {field.default}."


def _variable(name: str) -> str | None:
    wanted = f"WINNOW_{name.upper()}"
    return wanted if any(each.upper() == wanted for each in os.environ) else None


def authorization() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise Failure(f"{KEY_VARIABLE} is not a key: it has characters that none has.", UNUSABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _http(
    url: str, transport: httpx.AsyncBaseTransport | None = None, headers: Mapping[str, str] | None = None
) -> httpx.AsyncClient:
    try:
        if not 0 <= (port := httpx.URL(url).port or 0) <= LAST_PORT:
            raise httpx.InvalidURL(f"there is no port {port}")
        return httpx.AsyncClient(base_url=url, transport=transport, headers=headers, timeout=TIMEOUT)
    except httpx.InvalidURL as error:
        raise Failure(f"'{url}' is not an address: {error}.", UNUSABLE) from error


def _quieter(level: str) -> str:
    return level if level == "error" else "warning"


async def _await_ready(client: Client, show: Callable[[str], None]) -> None:
    """Wait for what passes by itself. With the rest the command tries its luck: it may be about another collection."""
    while (readiness := await client.readiness())["starting"]:
        show(escape("; ".join(readiness["reasons"])))
        await asyncio.sleep(0.05)
    for reason in readiness["reasons"]:
        stderr.print(f"[yellow]not ready[/] {escape(reason)}", soft_wrap=True)


def _told(response: httpx.Response) -> str:
    """A problem document (RFC 9457) as lines."""
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or "title" not in answer:
        return f"{response.url} answered {response.status_code} {response.reason_phrase}: is that a Winnow service?"
    faults = [f"  {fault['pointer'] or '/'} {fault['detail']}" for fault in _faults(answer.get("errors"))]
    return "\n".join([f"{answer['title']}: {answer.get('detail', '')}", *faults])


def _faults(errors: Any) -> list[dict[str, Any]]:
    """Other services' problem documents have them in other shapes."""
    listed = errors if isinstance(errors, list) else []
    return [each for each in listed if isinstance(each, dict) and {"pointer", "detail"} <= each.keys()]


def _wait(said: str) -> float:
    """Seconds until it may be asked again, never without a pause; what stands in front of a service may name a date
    (RFC 9110)."""
    if said.isdecimal():
        return max(float(said), 1.0)
    try:
        return max((parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds(), 1.0)
    except (TypeError, ValueError):
        return 1.0


def _no_text(error: UnicodeEncodeError) -> Failure:
    """An argument may hold bytes that are no text, which no request can say."""
    around = error.object[max(error.start - 20, 0) : error.end + 20]
    return Failure(f"This can't be written in {error.encoding}: {around!a}.", UNUSABLE)
