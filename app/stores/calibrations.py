"""Calibrations in the truth: one for each mode of a collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import apsw
import orjson

from app.stores.rows import now, rows, to_json
from app.types import Calibration, Fusion, Mode, Scale
from models.types import Blend

COLUMNS = "kind, encoder, reranker, measured, created_at"
BESIDE = {"mode", "encoder", "reranker", "measured", "created_at"}
"""What has a column of its own; all else is the content."""


def put(db: apsw.Connection, collection: int, calibration: Calibration) -> None:
    """In place of the one that was there."""
    content = {name: value for name, value in asdict(calibration).items() if name not in BESIDE}
    facts = (calibration.mode, calibration.encoder, calibration.reranker, to_json(calibration.measured), now())
    db.execute(
        f"INSERT OR REPLACE INTO calibrations (collection, content, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (collection, to_json(content), *facts),
    )


def every(db: apsw.Connection, collection: int) -> dict[Mode, Calibration]:
    sql = f"SELECT content, {COLUMNS} FROM calibrations WHERE collection = ? ORDER BY kind"
    return {
        mode: Calibration(mode, encoder, reranker, **_content(content), measured=orjson.loads(measured), created_at=at)
        for content, mode, encoder, reranker, measured, at in rows(db, sql, (collection,))
    }


def remove(db: apsw.Connection, collection: int) -> None:
    db.execute("DELETE FROM calibrations WHERE collection = ?", (collection,))


def _content(raw: str) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(raw)
    for name in ("reranked", "unreranked"):
        content[name] = _scale(**content[name])
    blend = content["blend"]
    return content | {"fusion": Fusion(**content["fusion"]), "blend": Blend(**blend) if blend else None}


def _scale(scores: Sequence[float], relevance: Sequence[float], **shares: float) -> Scale:
    """What it was written without counts for nothing, as it did then."""
    return Scale(tuple(scores), tuple(relevance), **shares)
