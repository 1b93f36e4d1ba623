"""Sparse vectors are part of the truth, and their index follows it: over replacement, deletion and a restart."""

from __future__ import annotations

from pathlib import Path

import apsw
import numpy as np
import pytest

from app.stores import log as changelog
from models.types import SparseVector
from tests.app.serving import Service, body, documents, fakes, serving

ASKED = SparseVector(np.arange(2**20, dtype=np.int32), np.ones(2**20, np.float32))
"""Every term there can be: a chunk's score is the sum of its weights."""


def _truth(data: Path) -> dict[int, SparseVector | None]:
    """What the truth has of living chunks."""
    with apsw.Connection(str(data / "winnow.db"), apsw.SQLITE_OPEN_READONLY) as db:
        blocks = list(changelog.living_expansions(db, 1, 7))
    return {each.chunk: each.vector for block in blocks for each in block}


def _check(service: Service, data: Path) -> int:
    """That the index holds what the truth has, and how much that is."""
    view = service.engine.collections.shelf("default").indexes.sparse
    assert view is not None
    truth = _truth(data)
    sums = [0.0 if vector is None else float(vector.weights.sum()) for vector in truth.values()]
    assert view.index.scores(ASKED, np.array(list(truth), np.int64)).tolist() == pytest.approx(sums, rel=1e-3)
    assert len(view.index) == len(truth)
    return len(truth)


async def _fill(service: Service) -> None:
    await service.ingest(*documents(90))
    await service.ingest(*documents(40, "another topic {0} of fewer words"))
    await service.client.post("/documents/delete", json={"ids": ["d7", "d55"]})
    await service.ingest({"id": "long", "text": "many words of a long document " * 200})


async def test_the_index_holds_what_the_truth_has_before_and_after_a_restart(tmp_path: Path) -> None:
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        await _fill(service)
        held = _check(service, tmp_path)
        shown = body(await service.client.get("/collections/default"))
        assert shown["sparse_chunks"] == shown["chunks"] == held > 90
        assert shown["sparse_bytes"] > 0
    async with serving(fakes(tmp_path, sparse="fake")) as service:
        assert _check(service, tmp_path) == held
