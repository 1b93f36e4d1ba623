"""How much of the exact answer the graph finds, at what cost: `python loadtest/recall.py --vectors 100000`."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from numpy.typing import NDArray

from app.settings import Settings
from app.stores.hnsw import HnswIndex
from app.types import Change

Vectors = NDArray[np.float32]

BLOCK = 2048
DEPTHS = (10, 50, 100)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Of the chunks, which filters leave."""
CLUSTERS_PER_VECTOR = 1 / 100
SPECTRUM = 0.5
"""How fast the spread falls along the axes, i^-0.5: about what embeddings of sentences show."""
SPREAD = 0.8
"""Spread inside a cluster, beside 1 between clusters."""
QUERY_NOISE = 0.6
"""A query is a document and so much of anything: the cosine of the two is about .86."""


@dataclass(frozen=True, slots=True)
class Data:
    name: str
    documents: Vectors
    queries: Vectors


@dataclass(frozen=True, slots=True)
class Build:
    data: str
    vectors: int
    dimensions: int
    compared: int
    """Numbers of each vector that the graph compares."""
    m: int
    ef_construction: int
    cpu_seconds: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of the table. Times are of single queries in one thread, candidates being the deepest of the recalls."""

    data: str
    compared: int
    ef: int
    recall: dict[int, float]
    p50_ms: float
    p95_ms: float


def unit(vectors: NDArray[np.float64]) -> Vectors:
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def clustered(vectors: int, dimensions: int, queries: int, rng: np.random.Generator) -> Data:
    """Like embeddings of text: a common direction, topics of all sizes, few strong axes and many weak."""
    axes = np.arange(1, dimensions + 1) ** -SPECTRUM
    topics = max(1, int(vectors * CLUSTERS_PER_VECTOR))
    centres = rng.standard_normal((topics, dimensions)) * axes + 0.3 * axes[0] * rng.standard_normal(dimensions)
    sizes = rng.pareto(1.2, topics) + 0.1
    of = rng.choice(topics, vectors, p=sizes / sizes.sum())
    documents = unit(centres[of] + SPREAD * rng.standard_normal((vectors, dimensions)) * axes)
    near = documents[rng.choice(vectors, queries, replace=False)]
    return Data("clustered", documents, unit(near + QUERY_NOISE * unit(rng.standard_normal(near.shape) * axes)))


def uniform(vectors: int, dimensions: int, queries: int, rng: np.random.Generator) -> Data:
    """The worst case, which no encoder makes: nothing is near anything."""
    documents, asked = rng.standard_normal((vectors, dimensions)), rng.standard_normal((queries, dimensions))
    return Data("uniform", unit(documents), unit(asked))


MAKERS = {"clustered": clustered, "uniform": uniform}


def of_file(file: Path, queries: int, rng: np.random.Generator) -> Data:
    """Vectors of one's own, a row each; some of them are taken out and asked for."""
    held = unit(rng.permutation(np.load(file)).astype(np.float64))
    return Data(file.stem, held[queries:], held[:queries])


def changes(documents: Vectors) -> Iterator[list[Change]]:
    for start in range(0, len(documents), BLOCK):
        block = documents[start : start + BLOCK]
        yield [Change(n, n, vector) for n, vector in enumerate(block, start + 1)]


def build(data: Data, asked: argparse.Namespace, compared: int) -> tuple[HnswIndex, Build]:
    """Never searched exactly unless that is asked for."""
    count, dimensions = data.documents.shape
    index = HnswIndex(
        dimensions,
        asked.m,
        asked.ef_construction,
        asked.ef_construction,
        exact_below=0,
        graph_dimensions=compared,
        truth=lambda chunks: (chunks, data.documents[chunks - 1]),
        rounded=asked.rounded,
    )
    started = process_time()
    for block in changes(data.documents):
        index.apply(block)
    seconds = process_time() - started
    size = index.nbytes / 1e6
    return index, Build(data.name, count, dimensions, compared, asked.m, asked.ef_construction, seconds, size)


def nearest(data: Data, depth: int) -> list[list[int]]:
    """Of each query the chunks that come first, by comparing with all."""
    found = [np.argsort(-(data.documents @ query), kind="stable")[:depth] + 1 for query in data.queries]
    return [chunks.tolist() for chunks in found]


def measure(index: HnswIndex, data: Data, ef: int, truth: Sequence[Sequence[int]], depth: int) -> Measured:
    index.tune(ef)
    found, times = [], []
    for query in data.queries:
        started = perf_counter()
        answer = index.search(query, depth)
        times.append(1000 * (perf_counter() - started))
        found.append(answer.chunks.tolist())
    recall = {k: recall_at(k, found, truth) for k in DEPTHS if k <= depth}
    median, high = (float(np.percentile(times, share)) for share in (50, 95))
    return Measured(data.name, index.graph_dimensions, ef, recall, median, high)


def recall_at(k: int, found: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]) -> float:
    return float(np.mean([len({*a[:k]} & {*b[:k]}) / k for a, b in zip(found, truth, strict=True)]))


def filtered(index: HnswIndex, data: Data, shares: Sequence[float], k: int) -> Iterator[str]:
    """What a filter costs by graph and exactly: where the two meet is where `exact_below` belongs."""
    rng = np.random.default_rng(7)
    yield f"| {data.name}: allowed | graph ms | exact ms | recall@{k} |\n|---|---|---|---|"
    for share in shares:
        count = int(share * len(index))
        allowed = np.sort(rng.choice(len(index), count, replace=False) + 1)
        times: list[tuple[float, float, float]] = []
        for query in data.queries[:100]:
            started = perf_counter()
            by_graph = index.search(query, k, allowed)
            middle = perf_counter()
            exactly = index.search_exact(query, k, allowed)
            hit = recall_at(k, [by_graph.chunks.tolist()], [exactly.chunks.tolist()])
            times.append((1000 * (middle - started), 1000 * (perf_counter() - middle), hit))
        graph, exact = np.median([t[:2] for t in times], axis=0)
        yield f"| {count} | {graph:.2f} | {exact:.2f} | {np.mean([t[2] for t in times]):.3f} |"


def tables(builds: Sequence[Build], rows: Sequence[Measured]) -> str:
    lines = [
        "| data | vectors | compared | m | ef_construction | build, CPU s | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for b in builds:
        size = f"{b.vectors} x {b.dimensions}"
        cells = [b.data, size, b.compared, b.m, b.ef_construction, f"{b.cpu_seconds:.0f}", f"{b.megabytes:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    depths = list(rows[0].recall)
    lines += ["", "| data | compared | ef | " + " | ".join(f"recall@{k}" for k in depths) + " | p50 ms | p95 ms |"]
    lines.append("|---" * (5 + len(depths)) + "|")
    for row in rows:
        recalls = " | ".join(f"{row.recall[k]:.4f}" for k in depths)
        lines.append(f"| {row.data} | {row.compared} | {row.ef} | {recalls} | {row.p50_ms:.2f} | {row.p95_ms:.2f} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--candidates", type=int, default=100, help="how many a query asks for")
    parser.add_argument("--data", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--file", type=Path, help="vectors of your own instead, a row each (.npy)")
    parser.add_argument("--compared", type=int, nargs="+", help="numbers of each vector that the graph compares")
    parser.add_argument(
        "--rounded", action="store_true", help="vectors beside the graph as bytes; whole ones in memory"
    )
    parser.add_argument("--m", type=int, default=settings["index_m"])
    parser.add_argument("--ef-construction", type=int, default=settings["index_ef_construction"])
    parser.add_argument("--ef", type=int, nargs="+", default=sorted({100, 200, 400, 800, settings["index_ef"]}))
    parser.add_argument("--filters", action="store_true", help="also compare graph and exact search under filters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser.parse_args()


def sets(asked: argparse.Namespace) -> Iterator[Data]:
    rng = np.random.default_rng(asked.seed)
    if asked.file:
        yield of_file(asked.file, asked.queries, rng)
        return
    for name in asked.data:
        yield MAKERS[name](asked.vectors, asked.dimensions, asked.queries, rng)


def main() -> None:
    asked = arguments()
    builds: list[Build] = []
    rows: list[Measured] = []
    for data in sets(asked):
        truth = nearest(data, max(DEPTHS))
        for compared in asked.compared or [data.documents.shape[1]]:
            index, built = build(data, asked, compared)
            builds.append(built)
            rows += [measure(index, data, ef, truth, asked.candidates) for ef in asked.ef]
            print(f"built and searched {data.name}", flush=True)
            if asked.filters:
                index.tune(Settings.model_fields["index_ef"].default)
                print("\n".join(filtered(index, data, SHARES, 50)), flush=True)
    print(tables(builds, rows))
    if asked.json:
        figures = {"machine": platform.processor() or platform.machine(), "builds": [asdict(b) for b in builds]}
        asked.json.write_text(json.dumps({**figures, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
