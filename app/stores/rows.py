"""The few shapes in which rows come out of SQLite, and values go in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import apsw
import numpy as np
import orjson

from app.types import Vector
from models.types import Ids, SparseVector

Parameters = Sequence[Any] | Mapping[str, Any]

BYTES_PER_TERM = 6

ID_KINDS: Mapping[int, type[np.integer[Any]]] = {2: np.uint16, 4: np.int32}
"""Of token ids, by their bytes."""


def rows(db: apsw.Connection, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
    """All that a query finds."""
    return list(db.execute(sql, parameters))


def first(db: apsw.Connection, sql: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
    """The first row, if there is one."""
    return next(iter(db.execute(sql, parameters)), None)


def number(db: apsw.Connection, sql: str, parameters: Parameters = ()) -> int:
    """The one number that a query gives; nothing counts as 0."""
    row = first(db, sql, parameters)
    return int(row[0]) if row and row[0] is not None else 0


def vector(raw: bytes) -> Vector:
    """A stored vector."""
    return np.frombuffer(raw, np.float32)


def sparse_vector(raw: bytes) -> SparseVector:
    """A stored sparse vector."""
    terms = len(raw) // BYTES_PER_TERM
    weights = np.frombuffer(raw, np.float16, offset=terms * np.dtype(np.int32).itemsize)
    return SparseVector(np.frombuffer(raw, np.int32, terms), weights.astype(np.float32))


def sparse_bytes(vector: SparseVector) -> bytes:
    """The same as it is stored: weights with three digits, as much as an encoder's own arithmetic is worth."""
    return vector.terms.tobytes() + vector.weights.astype(np.float16).tobytes()


def token_ids(raw: bytes, width: int) -> Ids:
    """Stored token ids, of so many bytes each."""
    return np.frombuffer(raw, ID_KINDS[width]).astype(np.int32)


def token_bytes(ids: Ids) -> tuple[bytes, int]:
    """The same as they are stored: in two bytes each if they are small enough."""
    width = 2 if ids.max(initial=0) < 2**16 else 4
    return ids.astype(ID_KINDS[width]).tobytes(), width


def to_json(value: Any) -> str:
    """The same text for the same value, whatever the order of its keys."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def now() -> str:
    """This moment, as it is kept and shown."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
