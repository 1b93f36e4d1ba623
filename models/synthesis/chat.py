"""One question to a chat model behind an OpenAI-compatible address, asked again for as long as that makes sense."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

from models.synthesis.cost import tokens
from models.synthesis.pace import Pace
from models.synthesis.prompt import SCHEMA
from models.synthesis.types import CalledOff, Failed, Stop, Unreachable, Unusable, Usage

CONNECT_SECONDS = 10.0
LONGEST_PAUSE = 60.0
"""Seconds between two attempts, at most, where the server does not say."""
PATIENCE = 600.0
"""A server that asks for a longer pause than this has run out of something: the run ends."""
TOLD = 300
"""Characters of a server's message that are passed on."""

AGAIN = frozenset({408, 409, 425, 429})
UNFIT = frozenset({400, 413, 422})
"""The request is at fault: all of them, or after good answers this one alone."""
OFFENSIVE = 403
"""The key may not, or after good answers, a moderated server will not hear this one passage."""

ADVICE = {
    401: "Put a valid key into the environment variable {key_from}.",
    402: "Check the account's balance.",
    403: "The key in {key_from} may not do this: check its rights, --url and --model.",
    404: "Check --url, which usually ends in /v1, and --model.",
    400: "Check --model, --options and --prompt.",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask. The key goes into one header and nowhere else."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    key_from: str = "OPENAI_API_KEY"
    """The environment variable of the key, for messages."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request."""
    timeout: float = 120.0
    retries: int = 5
    pause: float = 1.0
    """Seconds before the second attempt; they double with each further one."""

    def __post_init__(self) -> None:
        url = _parsed(self.url)
        if url.scheme not in ("http", "https") or not url.host:
            raise Unusable(f"{self.url!r} is no address: --url looks like http://localhost:11434/v1.")
        if url.userinfo or url.query or url.fragment:
            raise Unusable(
                f"--url holds more than an address: put the key into {self.key_from}, and end with the path."
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise Unusable(f"{self.key_from} holds characters that no key has: copy the key again.")

    def without_key(self, text: str) -> str:
        """What a server says, fit to be shown: some repeat the key they were given."""
        return text.replace(self.key, "…") if self.key else text


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said and what it took."""

    text: str
    usage: Usage
    cut: bool
    """Whether the model ran into a limit of tokens."""
    counted: bool
    """Whether the server counted the tokens; if not, they are guessed."""


class Busy(Exception):
    """Not now; another attempt may do better."""

    def __init__(self, message: str, pause: float | None = None, everyone: bool = False) -> None:
        super().__init__(message)
        self.pause = pause
        self.everyone = everyone


class Chat:
    """Asks one endpoint at a pace, and learns on the way whether it takes a response format."""

    def __init__(self, endpoint: Endpoint, pace: Pace, http: httpx.AsyncClient, tell: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._pace = pace
        self._http = http
        self._tell = tell
        self._takes_format: bool | None = None
        self._reached = False
        self._over = asyncio.Event()
        self.proven = False
        """Whether it has ever given a good answer: from then on a refusal concerns one passage, not all."""

    async def ask(self, prompt: str, expected: float) -> Reply:
        """The model's reply, after as many attempts as it takes and are allowed."""
        for attempt in range(self._endpoint.retries + 1):
            try:
                reply = await self._attempt(prompt, expected)
                self._pace.owe(reply.usage.total - expected)
                return reply
            except Busy as busy:
                trouble = busy
                if attempt < self._endpoint.retries:
                    await self._wait(busy, attempt)
        raise Failed(f"{trouble} ({self._endpoint.retries + 1} attempts)")

    def end(self, why: str = "") -> None:
        """From now on nothing is sent: what is under way may be awaited, what waits for its turn is called off."""
        self._over.set()
        if why:
            self._tell(why)

    async def _attempt(self, prompt: str, expected: float) -> Reply:
        formatted = self._takes_format is not False
        response = await self._post(prompt, expected, formatted)
        if self._takes_format is None and response.is_success:
            self._takes_format = True
        if self._takes_format is None and response.status_code in UNFIT:
            response = await self._without_format(prompt, expected)
        self._check(response)
        reply = self._reply(response, prompt)
        self.proven = True
        return reply

    async def _without_format(self, prompt: str, expected: float) -> httpx.Response:
        response = await self._post(prompt, expected, False)
        if response.is_success and self._takes_format is None:
            self._takes_format = False
            self._tell("The server refuses response_format; from here on the prompt alone asks for JSON.")
        return response

    async def _post(self, prompt: str, expected: float, formatted: bool) -> httpx.Response:
        await self._pace.admit(expected, self._sleep)
        if self._over.is_set():
            raise CalledOff
        limit = self._endpoint.timeout
        try:
            async with asyncio.timeout(limit):  # httpx's own begins anew with each byte that arrives
                response = await self._http.post("/chat/completions", content=self._body(prompt, formatted))
        except (TimeoutError, httpx.ReadTimeout) as error:
            raise Busy(f"no answer within {limit:g} s: raise --timeout or lower --concurrency") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreachable(error) from error
        except httpx.RequestError as error:
            raise Busy(f"the connection broke: {_why(error)}") from error
        self._reached = True
        return response

    def _body(self, prompt: str, formatted: bool) -> bytes:
        body = {"model": self._endpoint.model, "messages": [{"role": "user", "content": prompt}]}
        schema = {"name": "questions", "strict": True, "schema": SCHEMA}
        wanted = {"response_format": {"type": "json_schema", "json_schema": schema}} if formatted else {}
        return orjson.dumps(body | wanted | dict(self._endpoint.options))

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        told = f"the server answered {status}: {self._endpoint.without_key(_message(response))[:TOLD]}"
        if status in AGAIN or status >= 500:
            raise self._busy(response, told)
        if self.proven and (status in UNFIT or status == OFFENSIVE):
            raise Failed(told)
        advice = ADVICE.get(400 if status in UNFIT else status, "Check --url: it must be the final address.")
        raise Stop(f"{told.rstrip('.')}. {advice.format(key_from=self._endpoint.key_from)}")

    def _busy(self, response: httpx.Response, told: str) -> Exception:
        pause = _retry_after(response)
        if pause is not None and pause > PATIENCE:
            return Stop(f"{told.rstrip('.')}. It asks to come back in {pause / 60:,.0f} minutes: run this again then.")
        return Busy(told, pause, everyone=response.status_code == 429 or pause is not None)

    def _unreachable(self, error: httpx.TransportError) -> Exception:
        told = f"{self._endpoint.url} can't be reached: {_why(error)}"
        return Busy(told) if self._reached else Unreachable(f"{told}. Is the server running there? Check --url.")

    async def _wait(self, busy: Busy, attempt: int) -> None:
        longest = min(LONGEST_PAUSE, self._endpoint.pause * 2**attempt)
        pause = max(random.uniform(longest / 2, longest), busy.pause or 0)
        if busy.everyone:
            self._pace.hold(pause)
        else:
            await self._sleep(pause)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return
        raise CalledOff

    def _reply(self, response: httpx.Response, prompt: str) -> Reply:
        try:
            body = orjson.loads(response.content)
            choice = body["choices"][0]
            text = self._endpoint.without_key(_words(choice["message"].get("content")))
            usage = _counted(body.get("usage"))
            cut = choice.get("finish_reason") == "length"
            return Reply(text, usage or _guessed(prompt, text), cut, counted=usage is not None)
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
            shown = self._endpoint.without_key(response.text)[:TOLD]
            told = f"the server does not answer as a chat endpoint: {shown!r}"
            raise (Busy(told) if self.proven else Stop(f"{told}. {ADVICE[404]}")) from error


@asynccontextmanager
async def open_chat(endpoint: Endpoint, pace: Pace, tell: Callable[[str], None]) -> AsyncIterator[Chat]:
    """A chat with connections of its own."""
    headers = {"content-type": "application/json"}
    if endpoint.key:
        headers["authorization"] = f"Bearer {endpoint.key}"
    timeout = httpx.Timeout(endpoint.timeout, connect=min(CONNECT_SECONDS, endpoint.timeout))
    # How many are under way is the caller's choice, so that none waits for a connection here.
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=endpoint.url, headers=headers, timeout=timeout, limits=limits) as http:
        yield Chat(endpoint, pace, http, tell)


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Unusable(f"{url!r} is no address: {error}.") from error


def _words(content: Any) -> str:
    """What the model said; some servers send it in parts, thoughts and all."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError("content is no text")
    return content or ""


def _counted(usage: Any) -> Usage | None:
    """The server's count, if it gives one."""
    if not isinstance(usage, dict):
        return None
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Usage(prompt, output) if isinstance(prompt, int) and isinstance(output, int) else None


def _guessed(prompt: str, text: str) -> Usage:
    return Usage(tokens(prompt), tokens(text))


def _message(response: httpx.Response) -> str:
    """The server's own words, wherever it has put them."""
    try:
        found: Any = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return response.text.strip() or response.reason_phrase
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return str(found)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, which the header gives as such or as a date; nothing where it names no time to come."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return seconds if 0 < seconds < math.inf else None


def _seconds_until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _why(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
