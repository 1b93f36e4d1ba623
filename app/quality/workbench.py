"""What all evaluations of one command share: open models, the cache, and a way to show how far things are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from app.quality.cache import Cache
from models.catalog import open_encoder, open_reranker, open_sparse
from models.types import AskedPrecision, BiEncoder, ModelOptions, Reranker, SparseEncoder

Advance = Callable[[int], object]

Track = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows work of so many steps while it is under way: `with track("embed", 1000) as advance:`."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """Models are opened on first use and stay open."""

    options: ModelOptions
    cache: Cache
    track: Track
    batch_tokens: Callable[[str], int]
    """Tokens of one model batch, padding included, by device."""
    query_reserve: int = 128
    encoders: dict[str, BiEncoder] = field(default_factory=dict)
    rerankers: dict[str, Reranker] = field(default_factory=dict)
    sparse_encoders: dict[str, SparseEncoder] = field(default_factory=dict)
    others: dict[AskedPrecision, Workbench] = field(default_factory=dict)

    def computing_in(self, precision: AskedPrecision | None) -> Workbench:
        """One whose models compute in those numbers, with the same cache; without a word, this one."""
        if precision is None:
            return self
        if precision not in self.others:
            options = replace(self.options, precision=precision)
            self.others[precision] = Workbench(options, self.cache, self.track, self.batch_tokens, self.query_reserve)
        return self.others[precision]

    def encoder(self, name: str) -> BiEncoder:
        if name not in self.encoders:
            self.encoders[name] = open_encoder(name, self.options)
        return self.encoders[name]

    def reranker(self, name: str) -> Reranker:
        if name not in self.rerankers:
            self.rerankers[name] = open_reranker(name, self.options)
        return self.rerankers[name]

    def sparse(self, name: str) -> SparseEncoder:
        if name not in self.sparse_encoders:
            self.sparse_encoders[name] = open_sparse(name, self.options)
        return self.sparse_encoders[name]


def numbers(model: BiEncoder | Reranker | SparseEncoder) -> tuple[str, str, str]:
    """All that a model's numbers depend on beside its input: what computes them rounds in its own way."""
    return model.fingerprint, model.precision, f"{model.device} {model.runtime}"


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places in batches of like length, longest first, none of more tokens than the budget with padding."""
    waiting = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while waiting:
        room = max(budget // max(lengths[waiting[0]], 1), 1)
        yield waiting[:room]
        waiting = waiting[room:]
