"""Encoders and rerankers without padding: the texts of a batch in one long row, as recorded graphs on a GPU.

The transformers are those of torch_runtime, with an attention that knows where texts begin and end. Each opening
compares a few texts with torch in single precision and with padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.packed_attention import pack
from models.packed_batch import Layout, Shape, parts
from models.packed_graphs import Graphs, Made, Record, Recorder
from models.proof import QUERY, TEXTS, TOLERANCES, distance
from models.runtimes import Unavailable
from models.torch_body import Body
from models.torch_device import find_device, has_bfloat16, to_bfloat16, wants_bfloat16
from models.torch_late import TOKENS
from models.torch_runtime import TorchEncoder, TorchReranker
from models.types import NO_PROMPTS, ModelOptions, Precision, Prompts, Tokens

_SAMPLES = (*TEXTS, TEXTS[-1] * 6)
"""The last has a thousand tokens, or as many as the model reads: more than most windows of attention."""

_COMINGS = 3
"""A batch is computed when one of its shape comes for the first time, recorded the second, replayed the third."""

Rows = NDArray[np.float32]


class PackedEncoder(TorchEncoder):
    """What TorchEncoder is, up to rounding, fingerprint included."""

    runtime = "packed"

    def __init__(self, name: str, path: Path, options: ModelOptions, prompts: Prompts = NO_PROMPTS) -> None:
        check_device(options)
        super().__init__(name, path, replace(options, precision="float32"), prompts)
        samples = [*self.tokenize([QUERY], "query"), *self.tokenize(_SAMPLES, "document")]
        expected = np.concatenate([self.encode([sample]) for sample in samples])
        with _reasons():
            self.packed = PackedBody(name, self.body, "sentence_embedding")
            self.run = self.packed.run
            self.precision = prove(self.packed, options, expected, lambda: self.encode(samples))


class PackedReranker(TorchReranker):
    """What TorchReranker is, likewise."""

    runtime = "packed"

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_device(options)
        super().__init__(name, path, replace(options, precision="float32"))
        samples = self.tokenize(QUERY, _SAMPLES)
        expected = np.stack([self.score([sample]) for sample in samples])
        with _reasons():
            self.packed = PackedBody(name, self.body, "scores")
            self.run = self.packed.run
            self.precision = prove(self.packed, options, expected, lambda: self.score(samples)[:, None])


class PackedBody:
    """A body's modules at work on texts that lie in one row. Threads that use it take turns."""

    def __init__(self, name: str, body: Body, output: str) -> None:
        """Changes the body for good."""
        pack(body.transformer.model)
        self._name, self._body, self._output = name, body, output
        self._device = torch.device(body.device)
        self._layout = _layout(body)
        self._blank = Tokens(np.full(1, body.padding, np.int32), np.zeros(1, np.int32), 0)
        self._graphs: Graphs | None = None
        self._turn = Lock()

    def record(self, record: Record) -> None:
        """From now on, batches of shapes that come again are replayed."""
        self._graphs = Graphs(self._name, self.forward, record)

    def speed_up(self, options: ModelOptions) -> Precision:
        """To recordings, where the device has them, and to the precision that is asked for; returns that."""
        if self._device.type == "cuda":
            self.record(Recorder(self._device))
        if not wants_bfloat16(options, self._device):
            return "float32"
        to_bfloat16(self._body.transformer.model)
        return "bfloat16"

    def run(self, batch: Sequence[Tokens]) -> Mapping[str, Tensor]:
        """Nothing here waits for a GPU: while it computes one part, the next one is packed."""
        # A text of no tokens would have no place of its own.
        texts = [text or self._blank for text in batch]
        with self._turn:
            rows, *states = (torch.cat(made) for made in zip(*map(self._made, parts(texts)), strict=True))
        return {self._output: rows} | ({TOKENS: states[0]} if states else {})

    def _made(self, batch: Sequence[Tokens]) -> Made:
        """What comes of a part, from a recording if there is one."""
        exact = Shape.of(batch)
        if self._graphs is None:
            return self.forward(self.written(batch, exact), exact)
        shape = exact.rounded
        if recording := self._graphs.get(shape):
            rows, *states = recording.replay(self.written(batch, shape))
            return rows[: exact.texts].clone(), *(each[: exact.tokens].clone() for each in states)
        made = self.forward(self.written(batch, exact), exact)
        self._graphs.offer(shape, partial(self.written, batch, shape), made)
        return made

    def forward(self, numbers: Tensor, shape: Shape) -> Made:
        """All modules over what was written."""
        there = numbers.to(self._device, non_blocking=True)
        features = self._body.forward(self._layout.features(there, shape), None)
        return features[self._output], *([features[TOKENS][0]] if TOKENS in features else [])

    def written(self, batch: Sequence[Tokens], shape: Shape) -> Tensor:
        """In memory that a GPU copies from while this thread goes on; torch keeps it until that has happened."""
        numbers = torch.empty(shape.numbers, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        self._layout.write(numbers.numpy(), batch, shape)
        return numbers


def check_device(options: ModelOptions) -> None:
    """Refuses a device before a model is loaded for it."""
    device = find_device(options.device)
    if device.type not in ("cuda", "cpu"):
        raise Unavailable(f"it runs on a CUDA GPU or a CPU, and the device is {device}")
    if device.type == "cuda" and not has_bfloat16(device):
        raise Unavailable("this GPU does not compute in bfloat16")
    if device.type == "cuda" and not wants_bfloat16(options, device):
        raise Unavailable("on a GPU it computes in bfloat16, and the precision is float32")


def prove(packed: PackedBody, options: ModelOptions, expected: Rows, compute: Callable[[], Rows]) -> Precision:
    """Refuses what says something else than torch did with padding; returns what it computes in from now on. Single
    precision comes first: half of it would hide a small fault in how texts lie."""
    _compare(compute(), expected, "float32")
    precision = packed.speed_up(options)
    if precision == "bfloat16":
        for _ in range(_COMINGS):
            _compare(compute(), expected, precision)
    return precision


def _compare(got: Rows, expected: Rows, precision: Precision) -> None:
    far, most = distance(got, expected), TOLERANCES[precision]
    if not far <= most:
        raise Unavailable(f"without padding it differs by {far:.2g}, where {most:.2g} is allowed in {precision}")


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever a model's own code and a GPU's raise becomes a reason why they don't go together."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(f"it can't be computed: {(str(error) or repr(error)).strip().splitlines()[0]}") from error


def _layout(body: Body) -> Layout:
    model: Any = body.transformer.model
    tables = [getattr(module, "position_embeddings", None) for module in model.modules()]
    return Layout(
        with_types=body.takes_types,
        uncounted=next((table.padding_idx for table in tables if isinstance(table, nn.Embedding)), None),
        with_mask=model.base_model is not model,
        first_alone=getattr(model.config, "classifier_pooling", "cls") == "cls",
    )
