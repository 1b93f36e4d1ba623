"""What a GPU makes of reranking: `python -m loadtest.gpu`, or, to see it at work, `--device cpu --pairs 8`.

Pairs of a question and a passage of some 170 tokens, read by the embedded reranker and by one of BERT-base's size with
random weights: in Winnow without padding and with it, and in sentence-transformers in half precision with all batch
sizes that are worth trying. Rows take turns, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from loadtest.passages import passages, questions
from loadtest.plain import RERANKER
from models.catalog import open_reranker
from models.packed_batch import Shape, parts
from models.packed_runtime import PackedReranker
from models.torch_device import find_device
from models.torch_loading import quiet
from models.types import ModelError, ModelOptions, Reranker, Tokens

PASSAGES = 50
"""Of each question: what one search reranks."""

BATCH = 32768
"""Tokens that the service gives an accelerator at once."""

SIDES = {"cuda": 8192, "cpu": 512}
"""Of the square matrices that show what the chip can do."""

WARM_UPS = 3
"""Rounds that don't count: what is new takes longer, and graphs are recorded in the second."""

SERVED = "winnow, packed, tokenized before"

Pair = tuple[str, str]
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Row:
    """One way to score all pairs."""

    title: str
    work: Callable[[], object]
    times: list[float] = field(default_factory=list)

    def measure(self) -> None:
        began = perf_counter()
        self.work()
        self.times.append(perf_counter() - began)

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True, slots=True)
class Clock:
    """How many milliseconds each step took, until the device had done it."""

    device: torch.device
    took: dict[str, float] = field(default_factory=dict)

    def time(self, step: str, work: Callable[[], Done], *, ended: bool = True) -> Done:
        began = perf_counter()
        done = work()
        if ended:
            settle(self.device)
        self.took[step] = 1000 * (perf_counter() - began)
        return done


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pairs(amount: int) -> list[Pair]:
    """Passages in a fixed order, fifty for each question."""
    asked = questions()
    return [(asked[number // PASSAGES % len(asked)], each.text) for number, each in enumerate(passages(amount))]


def tokenized(reranker: Reranker, asked: Sequence[Pair]) -> list[Tokens]:
    """As searches come: a question with all of its passages."""
    searches = groupby(asked, key=lambda pair: pair[0])
    return [tokens for question, its in searches for tokens in reranker.tokenize(question, [text for _, text in its])]


def scored(reranker: Reranker, batch: Sequence[Tokens]) -> None:
    """In batches as large as the service's; where they are padded, of pairs of like length."""
    ordered = batch if reranker.runtime == "packed" else sorted(batch, key=len, reverse=True)
    for part in parts(ordered, BATCH):
        reranker.score(part)


def winnow_rows(reranker: Reranker, asked: Sequence[Pair]) -> Iterator[Row]:
    tokens = tokenized(reranker, asked)
    yield Row(f"winnow, {reranker.runtime}", lambda: scored(reranker, tokenized(reranker, asked)))
    yield Row(f"winnow, {reranker.runtime}, tokenized before", lambda: scored(reranker, tokens))


def peer_rows(folder: Path, arguments: argparse.Namespace, asked: Sequence[Pair]) -> Iterator[Row]:
    for precision in arguments.precisions:
        given = {"dtype": getattr(torch, precision)}
        peer = CrossEncoder(str(folder), device=arguments.device, local_files_only=True, model_kwargs=given)
        for size in arguments.batches:
            work = partial(peer.predict, list(asked), batch_size=size, show_progress_bar=False)
            yield Row(f"sentence-transformers, {precision}, {size} at once", work)


def measure(rows: Sequence[Row], repetitions: int) -> None:
    for _ in range(WARM_UPS):
        for row in rows:
            row.work()
    for _ in range(repetitions):
        for row in rows:
            row.measure()


def speeds(rows: Sequence[Row], amount: int) -> str:
    best = min(row.seconds for row in rows if row.title.startswith("sentence-transformers"))
    lines = ["| | pairs/s | times the fastest sentence-transformers |", "|---|---|---|"]
    lines += [f"| {row.title} | {amount / row.seconds:.0f} | {best / row.seconds:.2f} |" for row in rows]
    return "\n".join(lines)


def steps(reranker: PackedReranker, asked: Sequence[Pair]) -> str:
    """Where the time of one part goes if each step waits for the one before, and what is left if none does."""
    clock, packed = Clock(torch.device(reranker.device)), reranker.packed
    part = next(parts(clock.time("tokenize", lambda: tokenized(reranker, asked))))
    shape = Shape.of(part)
    with torch.inference_mode():
        for _ in range(WARM_UPS):
            numbers = clock.time("pack", lambda: packed.written(part, shape))
            there = clock.time("copy", partial(numbers.to, reranker.device, non_blocking=True))
            clock.time("compute, kernel by kernel", partial(packed.forward, there, shape))
            scores = clock.time("as served: until the GPU is told all", lambda: packed.run(part), ended=False)
            clock.time("as served: wait for the scores", scores["scores"].cpu)
    title = f"One part: {shape.texts} pairs, {shape.tokens} tokens; `tokenize` is of all {len(asked)} pairs."
    lines = [f"| {step} | {milliseconds:.2f} |" for step, milliseconds in clock.took.items()]
    return "\n".join([title, "", "| step | ms |", "|---|---|", *lines])


def operations(model: Any, batch: Sequence[Tokens]) -> float:
    """Of floating-point numbers, in a BERT's layers: two for each weight and token, and those of its attention."""
    encoder = model.base_model.encoder
    weights = sum(module.weight.numel() for module in encoder.modules() if isinstance(module, nn.Linear))
    return float(2 * weights * sum(map(len, batch))) + of_attention(model, batch)


def of_attention(model: Any, batch: Sequence[Tokens]) -> float:
    """Those among them that have no weights."""
    squares = sum(len(tokens) ** 2 for tokens in batch)
    return float(4 * squares * model.config.hidden_size * model.config.num_hidden_layers)


def chip(device: torch.device, repetitions: int) -> float:
    """Operations a second that products of square matrices reach in bfloat16."""
    side, times = SIDES.get(device.type, SIDES["cpu"]), 10
    one, other = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))

    def work() -> None:
        for _ in range(times):
            torch.mm(one, other)
        settle(device)

    row = Row("matrices", work)
    measure([row], repetitions)
    return times * 2 * side**3 / row.seconds


def share(reranker: PackedReranker, rows: Sequence[Row], asked: Sequence[Pair], rate: float) -> str:
    """What part of the chip's rate the model gets."""
    work = operations(reranker.body.transformer.model, tokenized(reranker, asked))
    reached = work / next(row.seconds for row in rows if row.title == SERVED)
    return (
        f"`{SERVED}` computes {reached / 1e12:.2f} TFLOP/s, {reached / rate:.0%} of the {rate / 1e12:.2f} that "
        "products of square matrices reach in bfloat16."
    )


def random_reranker(folder: Path, layers: int, hidden: int) -> Path:
    """Of BERT's shape, with the embedded reranker's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(RERANKER)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        num_labels=1,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=hidden // 64,
    )
    opened: Any = AutoModelForSequenceClassification
    opened.from_config(config).save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    model = CrossEncoder(str(folder / "body"), device="cpu", local_files_only=True)
    model.save(str(folder / "reranker"), create_model_card=False)
    return folder / "reranker"


def report(title: str, folder: Path, arguments: argparse.Namespace, rate: float) -> Iterator[str]:
    asked = pairs(arguments.pairs)
    packed = open_reranker(str(folder), ModelOptions(arguments.device, runtime="packed"))
    padded = open_reranker(str(folder), ModelOptions(arguments.device, runtime="torch"))
    assert isinstance(packed, PackedReranker)
    rows = [*winnow_rows(packed, asked), *winnow_rows(padded, asked), *peer_rows(folder, arguments, asked)]
    measure(rows, arguments.repetitions)
    yield f"## {title}"
    yield speeds(rows, len(asked))
    yield share(packed, rows, asked, rate)
    yield steps(packed, asked)


def reports(arguments: argparse.Namespace) -> Iterator[str]:
    device = find_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "No GPU: these figures say nothing of one"
    yield f"{name}; torch {torch.__version__}"
    rate = chip(device, arguments.repetitions)
    with tempfile.TemporaryDirectory() as folder, quiet():
        yield from report("The embedded reranker", RERANKER, arguments, rate)
        random = random_reranker(Path(folder), arguments.layers, arguments.hidden)
        title = f"{arguments.layers} layers of {arguments.hidden}, with random weights"
        yield from report(title, random, arguments, rate)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--repetitions", type=int, default=5)
    peer = parser.add_argument_group("sentence-transformers")
    peer.add_argument("--precisions", nargs="+", default=["bfloat16", "float16"], choices=["bfloat16", "float16"])
    peer.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256, 512], help="pairs at once")
    random = parser.add_argument_group("the reranker with random weights", "by default of BERT-base's size")
    random.add_argument("--layers", type=int, default=12)
    random.add_argument("--hidden", type=int, default=768, help="a multiple of 64")
    arguments = parser.parse_args(words)
    try:
        for part in reports(arguments):
            print(f"{part}\n", flush=True)
    except ModelError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
