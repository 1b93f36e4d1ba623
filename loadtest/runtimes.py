"""What a rerank costs in each runtime: `python -m loadtest.runtimes --threads 2`.

Fifty pairs of about 174 tokens by the embedded reranker. Rows take turns, so that whatever else the machine does falls
on all of them alike: compare rows of one run, not runs. The rows of matrices are the floor: products of square matrices
with as many operations as all of the model's layers have (in int8 those of attention in single precision, as served).
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from loadtest.gpu import of_attention, operations
from models import network
from models.catalog import open_reranker
from models.quiet_openvino import core, openvino
from models.torch_runtime import TorchReranker
from models.types import ModelOptions, Reranker, Tokens

STORIES = Path(__file__).parent.parent / "tests" / "data" / "stories" / "corpus.jsonl.gz"
QUERY = "who was it that lived in the forest, and what did they want?"
PAIRS, MEAN, SPREAD = 50, 174, 30
MICRO_BATCHES = (1, 2, 4, 8, 16)
SIDE = 1024
"""Of a matrix: 2 MB in bfloat16, so that three of them stay near a core."""
BYTES_PRODUCTS = 4
"""In a row, what one makes being rounded for the next, as layers do it."""
TORCH_BATCHES = (11, 50)
"""What the service makes of it on a CPU, and all at once."""


@dataclass(frozen=True, slots=True)
class Row:
    runtime: str
    precision: str
    pairs: int
    work: Callable[[], object]
    times: list[float] = field(default_factory=list)

    def measure(self) -> None:
        began = perf_counter()
        self.work()
        self.times.append(1000 * (perf_counter() - began))


def texts(reranker: Reranker) -> list[str]:
    """Pieces of stories, so long that with the query they have the lengths that are wanted."""
    with gzip.open(STORIES, "rt", encoding="utf-8") as lines:
        stories = " ".join(json.loads(line)["text"] for line in islice(lines, 60))
    encoding = reranker.tokenizer.encode(stories, add_special_tokens=False)
    beside = len(reranker.tokenize(QUERY, [""])[0])
    lengths = np.clip(np.random.default_rng(7).normal(MEAN, SPREAD, PAIRS), 60, 300).astype(int) - beside
    ends = np.cumsum(lengths)
    return [
        stories[encoding.offsets[end - length][0] : encoding.offsets[end - 1][1]]
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]


def in_torch(reranker: Reranker, batch: list[Tokens], pairs: int) -> None:
    longest_first = sorted(batch, key=len, reverse=True)
    for start in range(0, len(batch), pairs):
        reranker.score(longest_first[start : start + pairs])


def in_openvino(reranker: Reranker, batch: list[Tokens], pairs: int) -> None:
    network.MICRO_BATCH = pairs * (MEAN + SPREAD)
    reranker.score(batch)


def multiply(work: float, kind: torch.dtype) -> None:
    """So many operations, in the form that a chip does them fastest."""
    one, other = (torch.ones(SIDE, SIDE, dtype=kind) for _ in range(2))
    for _ in range(round(work / (2 * SIDE**3))):
        torch.mm(one, other)


def bytes_products(threads: int) -> Callable[[], object]:
    """So many products of square matrices of bytes, by OpenVINO, for torch has none that are fast."""
    ops = openvino.opset15

    def within(what: Any, most: float) -> Any:
        ends = (ops.constant(np.float32(-most)), ops.constant(np.float32(most)))
        return ops.fake_quantize(what, *ends, *ends, 255)

    draw = np.random.default_rng(1)
    given = ops.parameter([SIDE, SIDE], np.float32)
    made = given
    for _ in range(BYTES_PRODUCTS):
        weights = ops.constant(draw.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32))
        made = ops.matmul(within(made, 4), within(weights, 1), False, True)
    told = {"ENABLE_CPU_PINNING": False} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    request = core().compile_model(openvino.Model([made], [given], "products"), "CPU", told).create_infer_request()
    one = draw.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)
    return lambda: request.infer([one])


def multiply_bytes(work: float, attention: float, products: Callable[[], object]) -> None:
    for _ in range(round((work - attention) / (2 * SIDE**3 * BYTES_PRODUCTS))):
        products()
    multiply(attention, torch.float32)


def _torch_model() -> Any:
    reranker = open_reranker("embedded", ModelOptions("cpu", "float32", runtime="torch"))
    assert isinstance(reranker, TorchReranker)
    return reranker.body.transformer.model


def rows(threads: int) -> Iterator[Row]:
    for precision in ("float32", "bfloat16", "int8"):
        for runtime, sizes, work in (("torch", TORCH_BATCHES, in_torch), ("openvino", MICRO_BATCHES, in_openvino)):
            if (runtime, precision) == ("torch", "int8"):
                continue
            options = ModelOptions("cpu", precision, threads, runtime)  # type: ignore[arg-type]  # of few words
            reranker = open_reranker("embedded", options)
            batch = reranker.tokenize(QUERY, texts(reranker))
            for pairs in sizes:
                yield Row(runtime, precision, pairs, partial(work, reranker, batch, pairs))
    model = _torch_model()
    needed = operations(model, batch)
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        yield Row("matrices", precision, PAIRS, partial(multiply, needed, kind))
    bytes_work = partial(multiply_bytes, needed, of_attention(model, batch), bytes_products(threads))
    yield Row("matrices", "int8", PAIRS, bytes_work)
    whole = texts(reranker)
    yield Row("tokenizing", "", PAIRS, lambda: reranker.tokenize(QUERY, whole))


def table(measured: list[Row]) -> str:
    first = statistics.median(measured[0].times)
    lines = ["| runtime | precision | pairs at once | ms | of the first row |", "|---|---|---|---|---|"]
    for row in measured:
        median = statistics.median(row.times)
        lines.append(f"| {row.runtime} | {row.precision} | {row.pairs} | {median:.0f} | {median / first:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="0 takes every core")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    measured = list(rows(arguments.threads))
    for row in measured:  # once unmeasured: shapes that are new take longer
        row.work()
    for _ in range(arguments.repetitions):
        for row in measured:
            row.measure()
    print(table(measured))


if __name__ == "__main__":
    main()
