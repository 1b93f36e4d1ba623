"""A converted network at work: texts of like length in small batches, several of them side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import ceil
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.arithmetic import properties, whole_precision
from models.batch import Inputs, padded
from models.eight_bits import Ranges, quantized
from models.matrix_unit import recut
from models.quiet_openvino import core, openvino
from models.runtimes import Unavailable
from models.types import Grain, ModelOptions, Precision, Tokens

MICRO_BATCH = 640
"""Tokens, padding included. Small enough to stay in a core's cache, where a batch of fifty chunks takes half as long
again, and for a core to find work until its neighbours end theirs; one text at a time takes a tenth more. A matrix unit
(AMX) waits for weights to come: with 512 tokens it takes 5 % longer, with 1,024 no less."""

STEP = 16
"""Widths of batches are its multiples. A matrix unit computes 16 rows at a time, and attention over any other number
of tokens takes it 8 % longer. And what was compiled for a shape is kept for when it comes again, half a megabyte for a
small model in 8 bits: with a width for every length, a process would grow for days."""

MOST_STREAMS = 4
"""Batches at once, each on its share of the threads. On two cores one for each is a fifth faster for many pairs; but
the more there are, the fewer threads has a lone query."""

AHEAD = 1
"""Batches that lie ready for whichever stream is free first, while Python is busy with what came of the one before."""

BESIDE = 1
"""Questions are embedded beside all that computes."""

Rows = NDArray[np.intp]

Whole = tuple[NDArray[np.float32], NDArray[np.float32]]
"""What a text is worth, and a row for each of its tokens."""

Made = TypeVar("Made")

Read = Callable[[Any, Sequence[Tokens]], list[Made]]
"""Takes out of a request what it made of texts."""


class _Engine:
    """A network that is compiled, and the requests that compute in it."""

    def __init__(self, model: Any, told: dict[str, Any], streams: int) -> None:
        self.compiled = core().compile_model(model, "CPU", told)
        self.queue = openvino.AsyncInferQueue(self.compiled, streams)
        self.queue.set_callback(_collect)
        self.requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams + AHEAD + BESIDE):
            self.requests.put(self.compiled.create_infer_request())

    def end(self) -> None:
        """Waits for what is under way in the queue."""
        for request in self.queue:
            with suppress(Exception):  # each may bring the error that is being told already
                request.wait()


class Network:
    """A network that is compiled for this CPU. Threads may use it at once: what is one micro-batch is computed beside
    those of others; larger batches are shared out to all cores, one after the other."""

    def __init__(
        self, model: Any, padding: int, limit: int, options: ModelOptions, ranges: Ranges | None = None
    ) -> None:
        """Of a text it reads no more tokens than the limit; the ranges are for 8 bits."""
        self.precision: Precision = whole_precision() if options.precision == "auto" else options.precision
        self._model, self._ranges, self._threads = model, ranges, options.threads
        self._padding, self._limit = padding, limit
        self._with_types = any(each.any_name == "token_type_ids" for each in model.inputs)
        self._streams = _streams(options.threads)
        self.grain = Grain(self._streams, MICRO_BATCH, AHEAD)
        self._turn, self._change = Lock(), Lock()
        self._engine: _Engine | None = None
        hint = self._sound().compiled.get_property("INFERENCE_PRECISION_HINT")
        if self.precision == "bfloat16" and hint != openvino.Type.bf16:
            raise Unavailable("this CPU does not compute in bfloat16")

    def run(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """A row of numbers for each text, in their order."""
        rows: list[NDArray[np.float32]] = self._run(batch, _rows)
        return np.stack(rows)

    def run_whole(self, batch: Sequence[Tokens]) -> list[Whole]:
        """The same, and what a network with two outputs makes of each token."""
        return self._run(batch, _wholes)

    def _run(self, batch: Sequence[Tokens], read: Read[Made]) -> list[Made]:
        fits = len(batch) * max(map(len, batch)) <= MICRO_BATCH
        return self._compute(batch, read) if fits or len(batch) == 1 else self._share_out(batch, read)

    def _compute(self, batch: Sequence[Tokens], read: Read[Made]) -> list[Made]:
        """It waits for a core, and not for all that another thread has begun."""
        engine = self._sound()
        request = engine.requests.get()
        try:
            request.start_async(self._inputs(batch))  # infer() would tell of no error, and leave the answer of before
            request.wait()
            made = read(request, batch)
            self._check(engine)
            return made
        except RuntimeError:
            self._give_up(engine)
            raise
        finally:
            engine.requests.put(request)

    def _share_out(self, batch: Sequence[Tokens], read: Read[Made]) -> list[Made]:
        found: dict[int, Made] = {}
        failed: list[Exception] = []
        with self._turn:
            engine = self._sound()
            try:
                for rows in _micro_batches(batch, self._streams):
                    texts = [batch[row] for row in rows]
                    engine.queue.start_async(self._inputs(texts), (rows, texts, read, found, failed))
                engine.queue.wait_all()
                self._check(engine)
            except RuntimeError:
                engine.end()
                self._give_up(engine)
                raise
            except KeyboardInterrupt:  # what is under way calls back, and Python has to be there yet
                engine.end()
                raise
        if failed:
            raise failed[0]
        return [found[row] for row in range(len(batch))]

    def _sound(self) -> _Engine:
        with self._change:
            if not self._engine:
                told = properties(self.precision) | _threading(self._threads, self._streams)
                self._engine = _Engine(self._fitted(), told, self._streams)
            return self._engine

    def _fitted(self) -> Any:
        """What is compiled, as the precision wants it."""
        match self.precision:
            case "int8":
                return quantized(self._model, self._ranges)
            case "bfloat16":
                return recut(self._model)
            case _:
                return self._model

    def _check(self, engine: _Engine) -> None:
        if self._engine is not engine:
            raise RuntimeError("OpenVINO met an error beside this batch: what it has computed here may be wrong.")

    def _give_up(self, engine: _Engine) -> None:
        """One that has met an error, as of memory that was short for once, may answer with it, or wrongly, for ever."""
        with self._change:
            if self._engine is engine:
                self._engine = None

    def _inputs(self, batch: Sequence[Tokens]) -> Inputs:
        width = width_of(max(map(len, batch)), self._limit)
        return padded(batch, self._padding, with_types=self._with_types, width=width)


def width_of(longest: int, limit: int) -> int:
    """What texts are filled up to; a model has no positions behind its limit."""
    return min(max(-(-longest // STEP), 1) * STEP, limit)


def _streams(threads: int) -> int:
    return min(threads or _cores(), MOST_STREAMS)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _threading(threads: int, streams: int) -> dict[str, Any]:
    # Pinned threads stay where they are, however busy other processes keep that core.
    told = {"NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
    return told | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


def _micro_batches(batch: Sequence[Tokens], streams: int) -> Iterator[Rows]:
    """Rows of like length, longest first; what shares a micro-batch is padded to the longest of it. Towards the end
    they get smaller, so that all streams end at about the same time."""
    lengths = np.asarray([len(tokens) for tokens in batch])
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(min(MICRO_BATCH // max(int(lengths[order[0]]), 1), ceil(len(order) / streams)), 1)
        yield order[:count]
        order = order[count:]


def _collect(request: Any, told: tuple[Rows, Sequence[Tokens], Read[Made], dict[int, Made], list[Exception]]) -> None:
    rows, texts, read, found, failed = told
    try:
        found.update(zip(rows.tolist(), read(request, texts), strict=True))
    except Exception as error:  # raised in here it would end the process
        failed.append(error)


def _rows(request: Any, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
    """Of the first output, as rows of our own: the next run writes over the request's."""
    made = request.get_output_tensor(0).data
    if not made.size or len(made) != len(texts):
        raise RuntimeError(f"OpenVINO has computed nothing for {len(texts)} texts: there may be no memory for it.")
    return list(np.array(made, np.float32).reshape(len(texts), -1))


def _wholes(request: Any, texts: Sequence[Tokens]) -> list[Whole]:
    states = request.get_output_tensor(1).data
    return [
        (row, np.array(own[: len(text)], np.float32))
        for row, own, text in zip(_rows(request, texts), states, texts, strict=True)
    ]
