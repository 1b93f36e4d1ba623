"""What commands write by themselves, without the service, in its audit log."""

from __future__ import annotations

from app.settings import Settings
from app.stores.audit import append
from app.terminal.client import UNUSABLE, Failure


def tell(settings: Settings, action: str, **facts: object) -> None:
    """After it is done, where there is such a log."""
    if settings.audit is None:
        return
    try:
        append(settings.audit, {"action": action, "caller": "local", **facts})
    except OSError as error:
        raise Failure(f"It is done, but {settings.audit} can't be written: {error.strerror}.", UNUSABLE) from error
