"""The models in use: each opened once, with the batcher that all its callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from app.batch import objects
from app.batcher import Batcher, Compute
from app.device import Device
from app.errors import Invalid
from app.settings import Settings
from app.sharer import Memory, Sharer
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher, packed
from app.telemetry import Metrics
from models.catalog import open_encoder, open_reranker, open_sparse
from models.types import WHOLE, BiEncoder, Grain, ModelError, ModelOptions, Reranker, Role, SparseEncoder, Tokens

log = structlog.get_logger()

CPU_BATCH, ACCELERATOR_BATCH = 4096, 32768
"""For models that do not say how they like it. A batch can't be interrupted, and at its end cores wait for the last
text: on a CPU that costs one part in twenty here, and twice as much at half the size. An accelerator needs larger ones
to be busy."""

QUERIES = "cpu, queries"
"""On a CPU queries are embedded by a thread of their own: they take milliseconds, and what they would wait for may take
hundreds. On an accelerator batches are short, and one thread asks it."""

CPU_BULK, ACCELERATOR_BULK = 2048, 16384
"""Less for ingest, since a search that comes must wait for one to end."""

SPARSE_BATCH = 8192
"""On an accelerator: each token takes a number for every term of the vocabulary, which comes to a gigabyte."""

Opened = TypeVar("Opened", BiEncoder, Reranker, SparseEncoder)


class Models:
    """Opens by name, on first use; models on one device share its compute threads."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: Executor) -> None:
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._options = ModelOptions(
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            runtime=settings.runtime,
            conversions=settings.conversions,
            cache=settings.model_cache,
            offline=settings.offline,
            prompts=settings.prompts,
        )
        self._devices: dict[str, Device] = {}
        self._encoders: dict[str, Embedder] = {}
        self._rankers: dict[str, Ranker] = {}
        self._weighers: dict[str, Weigher] = {}
        self._opening = asyncio.Lock()

    async def embedder(self, name: str) -> Embedder:
        async with self._opening:
            if name not in self._encoders:
                encoder = await self._open(open_encoder, name)
                on, label = encoder.device, f"encoder:{name}"
                whole = _whole(encoder) if encoder.late else encoder.encode
                memory = self._memory()
                queries = (QUERIES, WHOLE) if on == "cpu" else (on, encoder.grain)
                asking = Sharer(self._batcher(label, whole, *queries), memory, self._metrics)
                alike = self._memory() if encoder.late else memory
                sharer = Sharer(self._batcher(label, encoder.encode, on, encoder.grain), alike, self._metrics)
                taking = self._batcher(label, whole, on, encoder.grain) if encoder.late else sharer.batcher
                self._encoders[name] = Embedder(encoder, asking, sharer, taking, self._metrics)
            return self._encoders[name]

    async def ranker(self, name: str) -> Ranker:
        async with self._opening:
            if name not in self._rankers:
                reranker = await self._open(open_reranker, name)
                batcher = self._batcher(f"reranker:{name}", reranker.score, reranker.device, reranker.grain)
                sharer = Sharer(batcher, Memory(self._settings.pair_cache_bytes), self._metrics)
                self._rankers[name] = Ranker(reranker, sharer, self._metrics, float(self._settings.chunk_tokens))
            return self._rankers[name]

    async def weigher(self, name: str) -> Weigher:
        async with self._opening:
            if name not in self._weighers:
                encoder = await self._open(open_sparse, name)
                asking, taking = (self._side(name, encoder, role) for role in ("query", "document"))
                self._weighers[name] = Weigher(
                    encoder, Sharer(asking, self._memory(), self._metrics), taking, self._metrics
                )
            return self._weighers[name]

    @property
    def devices(self) -> list[Device]:
        """Those that models compute on, so far."""
        return list(self._devices.values())

    def close(self) -> None:
        for device in self._devices.values():
            device.close()

    async def _open(self, opens: Callable[[str, ModelOptions], Opened], name: str) -> Opened:
        try:
            opened = await asyncio.get_running_loop().run_in_executor(self._threads, opens, name, self._options)
        except ModelError as error:
            raise Invalid(str(error)) from error
        facts = {"device": opened.device, "runtime": opened.runtime, "precision": opened.precision}
        log.info("model opened", model=name, **facts, fingerprint=opened.fingerprint[:12])
        return opened

    def _memory(self) -> Memory:
        """Of an encoder, for the questions of lately."""
        return Memory(self._settings.query_cache_bytes)

    def _side(self, name: str, encoder: SparseEncoder, role: Role) -> Batcher:
        def compute(batch: Sequence[Tokens]) -> NDArray[np.float32]:
            return packed(encoder.encode(batch, role), encoder.most_terms)

        return self._batcher(f"sparse:{name}", compute, encoder.device, WHOLE, SPARSE_BATCH)

    def _batcher(
        self,
        name: str,
        compute: Compute,
        on: str,
        grain: Grain,
        accelerated: int = ACCELERATOR_BATCH,
    ) -> Batcher:
        settings = self._settings
        if on not in self._devices:
            self._devices[on] = Device(on, settings.bulk_share, settings.stall_seconds)
        cpu = on in ("cpu", QUERIES)
        batch = settings.batch_tokens or grain.tokens or (CPU_BATCH if cpu else accelerated)
        bulk = settings.bulk_batch_tokens or min(CPU_BULK if cpu else ACCELERATOR_BULK, batch)
        return Batcher(
            name, compute, self._devices[on], self._metrics, batch, bulk, settings.queue_tokens, settings.queue_seconds,
            grain,
        )  # fmt: skip


def _whole(encoder: BiEncoder) -> Compute:
    def compute(batch: Sequence[Tokens]) -> NDArray[Any]:
        return objects(encoder.encode_whole(batch))

    return compute
