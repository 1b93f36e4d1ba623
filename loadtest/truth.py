"""What SQLite itself says of a collection, read beside the service, to hold its answers against."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-5
"""Sums of as many products in another order."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Truth:
    """Documents in every state, and the chunks of those that can be found, with their vectors."""

    documents: dict[str, tuple[str, str, int]]
    """State, text, and the version in the metadata, of the newest that was acknowledged."""
    chunks: NDArray[np.int64]
    vectors: Vectors
    texts: list[str]
    tokens: list[bytes | None]
    """Numbers of their tokens, where there are any."""

    def versions(self) -> dict[str, int]:
        return {document: version for document, (_, _, version) in self.documents.items()}

    def deviation(self, query: Vectors, top_k: int, hits: list[dict[str, Any]]) -> str | None:
        """How an exact search's hits differ from ranking all vectors here; equals may stand in any order."""
        scores = self.vectors @ query
        best, by_chunk = np.sort(scores)[::-1][:top_k], dict(zip(self.chunks.tolist(), scores.tolist(), strict=True))
        if len(hits) != len(best):
            return f"{len(hits)} hits, where SQLite has {len(best)}"
        for hit, due in zip(hits, best.tolist(), strict=True):
            own, told = by_chunk.get(int(hit["id"])), hit["stages"]["dense"]["score"]
            if own is None or abs(own - due) > ROUNDING or abs(told - due) > ROUNDING:
                return f"chunk {hit['id']} of {hit['document_id']} is there with {told}, where {due} is due ({own})"
        return None


def read(data_dir: Path, collection: str = "default") -> Truth:
    """All of it from one state of the database."""
    with closing(apsw.Connection(str(data_dir / "winnow.db"), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        db.execute("BEGIN")
        return Truth(_documents(db, collection), *_living(db, collection))


def _documents(db: apsw.Connection, collection: str) -> dict[str, tuple[str, str, int]]:
    sql = (
        "SELECT d.id, d.state, d.text, d.metadata FROM documents d JOIN collections c ON c.number = d.collection"
        " WHERE c.name = ? ORDER BY d.number"
    )
    found = db.execute(sql, (collection,))
    return {document: (state, text, json.loads(metadata)["version"]) for document, state, text, metadata in found}


def _living(db: apsw.Connection, collection: str) -> tuple[NDArray[np.int64], Vectors, list[str], list[bytes | None]]:
    sql = (
        "SELECT h.number, v.vector, h.text, t.numbers FROM collections c JOIN documents d ON d.collection = c.number"
        " JOIN chunks h ON h.document = d.number JOIN vectors v ON v.chunk = h.number"
        " LEFT JOIN token_vectors t ON t.chunk = h.number WHERE c.name = ? AND d.state = 'live' ORDER BY h.number"
    )
    found = list(db.execute(sql, (collection,)))
    vectors = np.array([np.frombuffer(raw, np.float32) for _, raw, _, _ in found], np.float32).reshape(len(found), -1)
    chunks = np.array([chunk for chunk, _, _, _ in found], np.int64)
    return chunks, vectors, [text for _, _, text, _ in found], [numbers for _, _, _, numbers in found]
