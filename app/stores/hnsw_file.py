"""Reading what hnswlib wrote: its own way to give vectors back makes a Python float of every number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.types import ChunkIds

# hnswalg.h, saveIndex, 0.8.0: the header, then one record per vector (links, vector, label), then the upper layers.
HEADER = np.dtype(
    [
        ("links_at", "<u8"),
        ("capacity", "<u8"),
        ("count", "<u8"),
        ("record_size", "<u8"),
        ("label_at", "<u8"),
        ("vector_at", "<u8"),
        ("top_layer", "<i4"),
        ("entry", "<u4"),
        ("upper_links", "<u8"),
        ("lowest_links", "<u8"),
        ("m", "<u8"),
        ("layer_factor", "<f8"),
        ("ef_construction", "<u8"),
    ]
)
MARK_AT = 2
"""In a record: two bytes say how many links it has, the lowest bit of the third that it is deleted."""


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What an index file holds, besides its links. Vectors are read from the file when they are used."""

    m: int
    ef_construction: int
    chunks: ChunkIds
    living: NDArray[np.bool_]
    vectors: NDArray[np.float32]


def read(path: Path, dimensions: int) -> GraphFile:
    """Raises ValueError when this can't be an index of so many dimensions."""
    header = _header(path)
    records = _records(path, header, dimensions)
    return GraphFile(
        m=int(header["m"]),
        ef_construction=int(header["ef_construction"]),
        chunks=records["label"].astype(np.int64),
        living=(records["mark"] & 1) == 0,
        vectors=records["vector"],
    )


def _header(path: Path) -> np.void:
    found = np.fromfile(path, HEADER, count=1)
    if not len(found):
        raise ValueError(f"{path.name} is too short to be an index")
    header: np.void = found[0]
    return header


def _records(path: Path, header: np.void, dimensions: int) -> NDArray[np.void]:
    if int(header["label_at"]) - int(header["vector_at"]) != 4 * dimensions:
        raise ValueError(f"{path.name} does not hold vectors of {dimensions} dimensions")
    count, size = int(header["count"]), int(header["record_size"])
    if HEADER.itemsize + count * size > os.path.getsize(path):
        raise ValueError(f"{path.name} ends before its {count} vectors")
    if not count:
        return np.empty(0, _record(header, dimensions))
    return np.memmap(path, _record(header, dimensions), "r", HEADER.itemsize, (count,))


def _record(header: np.void, dimensions: int) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": ["mark", "vector", "label"],
            "formats": ["u1", ("<f4", (dimensions,)), "<u8"],
            "offsets": [int(header["links_at"]) + MARK_AT, int(header["vector_at"]), int(header["label_at"])],
            "itemsize": int(header["record_size"]),
        }
    )
