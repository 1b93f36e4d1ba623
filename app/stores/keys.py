"""API keys in a file of their own. It has hashes alone, so that whoever reads it can use none of them.

winnow_<id>_<secret>     the id is public: it is in the file, in log lines and metrics; the secret is shown once
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from secrets import token_hex, token_urlsafe
from stat import S_IWOTH

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.caller import Scope
from app.errors import Invalid, NotFound
from app.stores.disk import write_whole

FORMAT = 1
PREFIX = "winnow"
SECRET_BYTES = 32
"""256 random bits can't be guessed: a fast hash keeps them as well as a slow one, which is for passwords."""

PRIVATE = 0o600


class Key(BaseModel):
    """What is kept of a key. One that was revoked stays, so that its id still has a name in logs of before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    collections: tuple[str, ...] = ()
    tokens_per_minute: int | None = Field(None, ge=1)
    created_at: str
    revoked_at: str | None = None

    def opens_with(self, secret: str) -> bool:
        """Compared in constant time: how long it takes says nothing of how much is right."""
        return compare_digest(_hash(secret), self.hash) and self.revoked_at is None


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int = Field(ge=FORMAT, le=FORMAT)
    keys: tuple[Key, ...]


class KeyFile:
    """The file: read whole, written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> tuple[int, int, int] | None:
        """Another one whenever the file is another one; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> tuple[Key, ...]:
        """All keys there are. What is not as it should be is refused rather than taken for a file without keys."""
        try:
            if self.path.stat().st_mode & S_IWOTH:
                raise Invalid(f"Everybody may write to {self.path}: chmod 600 it.")
            keys = _Content.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise Invalid(f"The keys in {self.path} can't be read: {error.strerror}.") from error
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its beginning"
            raise Invalid(f"The file of keys {self.path} is damaged at {where}: mend it, or restore it.") from error
        if len({key.id for key in keys}) < len(keys):
            raise Invalid(f"The file of keys {self.path} is damaged: two keys have the same id.")
        return keys

    def create(
        self, name: str, scopes: Sequence[Scope], collections: Sequence[str], tokens_per_minute: int | None
    ) -> tuple[Key, str]:
        """A new key, and what its owner is told once."""
        secret = token_urlsafe(SECRET_BYTES)
        key = Key(
            id=token_hex(6),
            name=name,
            hash=_hash(secret),
            scopes=tuple(dict.fromkeys(scopes)),
            collections=tuple(dict.fromkeys(collections)),
            tokens_per_minute=tokens_per_minute,
            created_at=_now(),
        )
        with self._changing():
            self._write((*self.read(), key))
        return key, f"{PREFIX}_{key.id}_{secret}"

    def revoke(self, given: str) -> Key:
        """End a key, by its id or by its name if no other living key has it."""
        with self._changing():
            keys = self.read()
            found = [key for key in keys if key.revoked_at is None and given in (key.id, key.name)]
            if len(found) != 1:
                wrong = f"{len(found)} keys are called '{given}': say its id" if found else f"There is no key '{given}'"
                raise NotFound(f"{wrong}. `winnow keys list` shows them.")
            revoked = found[0].model_copy(update={"revoked_at": _now()})
            self._write(tuple(revoked if key.id == revoked.id else key for key in keys))
        return revoked

    def _write(self, keys: tuple[Key, ...]) -> None:
        write_whole(self.path, _Content(format=FORMAT, keys=keys).model_dump_json(indent=2) + "\n", PRIVATE)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One command at a time: two that read before either has written would lose a key."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise Invalid(f"{self.path} can't be written: {error.strerror}.") from error
        finally:
            os.close(folder)


def split(presented: str) -> tuple[str, str] | None:
    """A key's id and its secret, if it looks like a key of ours."""
    with suppress(ValueError):
        prefix, id_, secret = presented.split("_", 2)
        if prefix == PREFIX:
            return id_, secret
    return None


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
