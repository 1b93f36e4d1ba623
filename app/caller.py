"""Who asks: known wherever a request's work is done, so that nothing on its way has to hand it on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, get_args

from app.allowance import Meter
from app.types import STANDBY

Scope = Literal["search", "ingest", "admin", "metrics"]
"""What a key may do: read, write documents, everything, or see the metrics."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(slots=True)
class Deed:
    """What a request has done, as far as the audit log tells."""

    collections: dict[str, None] = field(default_factory=dict)
    """Those that it was done in, in their order."""
    documents: int | None = None

    def touch(self, collection: str, documents: int | None = None) -> None:
        """Something was done in a collection, perhaps to so many documents."""
        self.collections[collection] = None
        if documents is not None:
            self.documents = (self.documents or 0) + documents


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may do something, and asks for it."""

    name: str
    """A key's id; where there are no keys, where the caller is."""
    scopes: frozenset[Scope] = frozenset(SCOPES)
    collections: frozenset[str] = frozenset()
    """Those that there are for this caller; nothing: all of them."""
    has_key: bool = False
    meter: Meter = field(default_factory=Meter)
    """Of this request, as the deed."""
    deed: Deed = field(default_factory=Deed)

    def may(self, scopes: frozenset[Scope]) -> bool:
        """Any of the scopes will do, and `admin` does always."""
        return "admin" in self.scopes or bool(self.scopes & scopes)

    def sees(self, collection: str) -> bool:
        """Whoever sees a collection sees its standby."""
        return not self.collections or collection.removesuffix(STANDBY) in self.collections


WINNOW = Caller("winnow")
"""Work that nobody asked for: opening, indexing, watching."""

_current: ContextVar[Caller] = ContextVar("caller", default=WINNOW)


def caller() -> Caller:
    return _current.get()


@contextmanager
def acting(who: Caller) -> Iterator[None]:
    """What is done here is done for this caller."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)
