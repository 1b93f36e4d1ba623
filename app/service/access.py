"""Who may ask: everybody on loopback as long as there are no keys, then only who has one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from app.allowance import Allowance, Meter
from app.caller import Caller
from app.errors import Forbidden, Invalid, StartupError, Unauthenticated
from app.settings import Settings
from app.stores.keys import Key, KeyFile, split

logger = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How soon a new or a revoked key counts."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

NO_KEY = "Send a key, as Authorization: Bearer … or as X-API-Key. `winnow keys create` makes one."
WRONG_KEY = "The key is none of this service's, or was revoked. `winnow keys list` shows those that there are."


class Access:
    """The keys that count at present, and what is asked of callers while there are none."""

    def __init__(self, settings: Settings, *, private: bool) -> None:
        """A private service is asked by its own process alone."""
        self._file = KeyFile(settings.keys_file)
        self._private = private
        self._open = settings.open
        self._hosts = _names(settings)
        self._mark = self._file.mark()
        self._keys = {} if private else _by_id(_first(settings))
        self._allowances = _allowances(self._keys, {})
        self.needs_keys = bool(self._keys)

    async def run(self) -> None:
        """Follow the file: `winnow keys` works while the service runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def admit(self, presented: str | None) -> Caller:
        """Who has this key, or the anonymous caller of a service without keys."""
        if not self.needs_keys:
            return Caller("local" if self._private else "anyone" if self._open else "loopback")
        if presented is None:
            raise Unauthenticated(NO_KEY)
        id_, secret = split(presented) or ("", "")
        key = self._keys.get(id_)
        if key is None or not key.opens_with(secret):
            raise Unauthenticated(WRONG_KEY)
        meter = Meter(self._allowances.get(key.id))
        return Caller(key.id, frozenset(key.scopes), frozenset(key.collections), True, meter)

    def check_origin(self, host: str, origin: str | None) -> None:
        """Without keys, whoever gets a browser on this machine to ask is let in: so pages of others are not.

        A page elsewhere sends its own origin; one whose name was made to point here has that name as host.
        """
        if self.needs_keys or self._private:
            return
        if self._hosts and _name(host) not in self._hosts:
            raise Forbidden(
                f"There are no keys, so this service answers to {', '.join(sorted(self._hosts))} alone, and not to "
                f"'{host}'. Set WINNOW_HOSTS, or make keys."
            )
        if origin is not None and origin.partition("://")[2] != host:
            raise Forbidden(f"There are no keys, so pages from elsewhere ('{origin}') may not ask. Make keys for them.")

    def look(self) -> None:
        """Read what has changed. What can't be read changes nothing: keys that counted go on counting."""
        mark = self._file.mark()
        if mark == self._mark or self._private:
            return
        self._mark = mark
        try:
            keys = self._file.read()
        except Invalid as error:
            logger.error("keys can't be read; those of before count on", reason=str(error))
            return
        self._allowances = _allowances(_by_id(keys), self._allowances)
        self._keys, self.needs_keys = _by_id(keys), self.needs_keys or bool(keys)
        logger.info("keys were read again", keys=sum(key.revoked_at is None for key in keys))


def _first(settings: Settings) -> tuple[Key, ...]:
    """Of a service that starts. Who names a file does not want to be without keys because it got lost."""
    try:
        keys = KeyFile(settings.keys_file).read()
    except Invalid as error:
        raise StartupError(str(error)) from error
    if settings.keys and not keys:
        raise StartupError(
            f"WINNOW_KEYS is {settings.keys}, and there are no keys: make one with `winnow keys create`."
        )
    return keys


def _by_id(keys: tuple[Key, ...]) -> Mapping[str, Key]:
    return {key.id: key for key in keys}


def _allowances(keys: Mapping[str, Key], before: Mapping[str, Allowance]) -> Mapping[str, Allowance]:
    """Of the keys that have a limit; what is spent stays spent where the limit stays the same."""
    made = {id_: Allowance(key.tokens_per_minute) for id_, key in keys.items() if key.tokens_per_minute}
    kept = {id_: each for id_, each in before.items() if id_ in made and made[id_].per_minute == each.per_minute}
    return made | kept


def _names(settings: Settings) -> frozenset[str]:
    """The names that count as this service's own; nothing: any."""
    named = frozenset(name.strip().lower() for name in settings.hosts.split(",") if name.strip())
    return named or (frozenset() if settings.open else LOOPBACK_NAMES | {settings.host.lower()})


def _name(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
