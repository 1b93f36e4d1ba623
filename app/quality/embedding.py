"""Texts to vectors and to weighted terms, each computed once for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from app.quality.cache import key
from app.quality.comparing import Comparer
from app.quality.workbench import Advance, Workbench, batches, numbers
from models.types import BiEncoder, Role, SparseEncoder, SparseVector, Tokens, Vectors

WINDOW = 2048
"""Texts that are sorted by length and kept together: what an interruption may cost."""

Encode = Callable[[Sequence[str], Sequence[Tokens]], Sequence[bytes]]
"""Of texts, and what they are as tokens, what is kept of each."""


def embed(
    bench: Workbench,
    encoder: BiEncoder,
    texts: Sequence[str],
    role: Role,
    what: str,
    comparer: Comparer | None = None,
) -> Vectors:
    """A row for each text. What a comparer will want to know of them comes of the same pass."""

    def encode(those: Sequence[str], batch: Sequence[Tokens]) -> Sequence[bytes]:
        if comparer is None:
            return [row.tobytes() for row in encoder.encode(batch)]
        wholes = encoder.encode_whole(batch)
        comparer.keep(those, [whole.tokens for whole in wholes], role)
        return [whole.vector.tobytes() for whole in wholes]

    vectors = np.empty((len(texts), encoder.dimensions), np.float32)
    for start, rows in _windows(bench, "vector", encoder, texts, role, what, encode):
        vectors[start : start + len(rows)] = np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1)
    return vectors


def weigh(bench: Workbench, encoder: SparseEncoder, texts: Sequence[str], role: Role, what: str) -> list[SparseVector]:
    """The terms of each text."""

    def encode(_: Sequence[str], batch: Sequence[Tokens]) -> Sequence[bytes]:
        return [each.terms.tobytes() + each.weights.tobytes() for each in encoder.encode(batch, role)]

    windows = _windows(bench, "terms", encoder, texts, role, what, encode)
    return [_sparse(row) for _, rows in windows for row in rows]


def _sparse(row: bytes) -> SparseVector:
    half = len(row) // 2
    return SparseVector(np.frombuffer(row[:half], np.int32), np.frombuffer(row[half:], np.float32))


def _windows(
    bench: Workbench,
    label: str,
    encoder: BiEncoder | SparseEncoder,
    texts: Sequence[str],
    role: Role,
    what: str,
    encode: Encode,
) -> Iterator[tuple[int, list[bytes]]]:
    """What is known of each text, or computed now, window by window with the place where it begins."""
    with bench.track(what, len(texts)) as advance:
        for start in range(0, len(texts), WINDOW):
            window = texts[start : start + WINDOW]
            keys = [key(label, *numbers(encoder), role, text) for text in window]
            found = bench.cache.get(keys)
            advance(sum(each in found for each in keys))
            missing = {each: text for each, text in zip(keys, window, strict=True) if each not in found}
            found |= _compute(bench, encoder, missing, role, encode, advance)
            yield start, [found[each] for each in keys]


def _compute(
    bench: Workbench,
    encoder: BiEncoder | SparseEncoder,
    texts: Mapping[bytes, str],
    role: Role,
    encode: Encode,
    advance: Advance,
) -> dict[bytes, bytes]:
    if not texts:
        return {}
    keys, known = list(texts), list(texts.values())
    tokens = encoder.tokenize(known, role)
    made: dict[bytes, bytes] = {}
    for batch in batches([len(each) for each in tokens], bench.batch_tokens(encoder.device)):
        rows = encode([known[place] for place in batch], [tokens[place] for place in batch])
        made |= {keys[place]: row for place, row in zip(batch, rows, strict=True)}
        advance(len(batch))
    bench.cache.put(made)
    return made
