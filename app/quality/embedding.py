"""Texts to vectors, each computed once for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.quality.cache import key
from app.quality.workbench import Advance, Workbench, batches
from models.types import BiEncoder, Role, Vectors

WINDOW = 2048
"""Texts that are sorted by length and kept together: what an interruption may cost."""


def embed(bench: Workbench, encoder: BiEncoder, texts: Sequence[str], role: Role, what: str) -> Vectors:
    """A row for each text."""
    vectors = np.empty((len(texts), encoder.dimensions), np.float32)
    with bench.track(what, len(texts)) as advance:
        for start in range(0, len(texts), WINDOW):
            window = texts[start : start + WINDOW]
            keys = [key("vector", *bench.numbers(encoder), role, text) for text in window]
            found = bench.cache.get(keys)
            advance(sum(each in found for each in keys))
            missing = {each: text for each, text in zip(keys, window, strict=True) if each not in found}
            found |= _compute(bench, encoder, missing, role, advance)
            rows = b"".join(found[each] for each in keys)
            vectors[start : start + WINDOW] = np.frombuffer(rows, np.float32).reshape(len(window), -1)
    return vectors


def _compute(
    bench: Workbench, encoder: BiEncoder, texts: Mapping[bytes, str], role: Role, advance: Advance
) -> dict[bytes, bytes]:
    if not texts:
        return {}
    keys, tokens = list(texts), encoder.tokenize(list(texts.values()), role)
    made: dict[bytes, bytes] = {}
    for batch in batches([len(each) for each in tokens], bench.batch_tokens(encoder.device)):
        vectors = encoder.encode([tokens[place] for place in batch])
        made |= {keys[place]: row.tobytes() for place, row in zip(batch, vectors, strict=True)}
        advance(len(batch))
    bench.cache.put(made)
    return made
