"""What outlives a restart: the reference that drift is measured by, and the effort that tuning has come to."""

from __future__ import annotations

from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.quality.observe.drift import Reference
from app.stores.disk import write_whole

logger = structlog.get_logger()


class KeptReference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    since: str
    signals: dict[str, list[float]] = Field(min_length=1)

    @classmethod
    def of(cls, reference: Reference) -> KeptReference:
        signals = {name: list(values) for name, values in reference.signals.items()}
        return cls(kind=reference.kind, since=reference.since, signals=signals)

    def reference(self) -> Reference:
        return Reference(self.kind, self.since, {name: tuple(values) for name, values in self.signals.items()})


class Kept(BaseModel):
    """Of one collection, in a file that is called by its number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str
    ef: int = Field(ge=1)
    ef_configured: int
    """What was set when `ef` was found: with another setting the search for it begins anew."""
    reference: KeptReference | None = None


def keep(folder: Path, number: int, kept: Kept) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(_path(folder, number), kept.model_dump_json())


def kept(folder: Path, number: int, collection: str) -> Kept | None:
    """Nothing where there is none, or none that can be read: it is measured again."""
    try:
        found = Kept.model_validate_json(_path(folder, number).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("what was kept of quality can't be read", collection=collection, error=error)
        return None
    return found if found.collection == collection else None


def forget(folder: Path, number: int) -> None:
    _path(folder, number).unlink(missing_ok=True)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"
