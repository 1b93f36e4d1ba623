"""Texts compared with queries token by token; what a text's tokens are is computed once for good."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from app.quality.cache import key
from app.quality.workbench import Workbench, batches, numbers
from models.late_head import nearness
from models.types import BiEncoder, LateHead, Role, Scores, TokenQuery, TokenVectors


class Comparer:
    """An encoder's late interaction, with a memory."""

    def __init__(self, encoder: BiEncoder, late: LateHead, bench: Workbench) -> None:
        self.blends = late.blends
        self._encoder = encoder
        self._late = late
        self._bench = bench
        self._numbers = *numbers(encoder), late.fingerprint

    def keep(self, texts: Sequence[str], tokens: Sequence[TokenVectors], role: Role) -> None:
        """What has been computed elsewhere."""
        rows = [each.tobytes() for each in tokens]
        self._bench.cache.put(dict(zip(self._keys(texts, role), rows, strict=True)))

    def compare(self, query: str, texts: Sequence[str]) -> Scores:
        return nearness(self._query(query), self._tokens(texts, "document"))

    def time(self, query: str, texts: Sequence[str]) -> float:
        """Seconds that the same takes once all is read."""
        asked, read = self._query(query), self._tokens(texts, "document")
        began = perf_counter()
        nearness(asked, read)
        return perf_counter() - began

    def _query(self, text: str) -> TokenQuery:
        (seen,) = self._encoder.tokenize([text], "query")
        (tokens,) = self._tokens([text], "query")
        return TokenQuery(tokens, self._late.weights(seen.ids[self._encoder.inside(seen)]))

    def _tokens(self, texts: Sequence[str], role: Role) -> list[TokenVectors]:
        keys = self._keys(texts, role)
        found = self._bench.cache.get(keys)
        found |= self._compute({each: text for each, text in zip(keys, texts, strict=True) if each not in found}, role)
        return [np.frombuffer(found[each], np.int8).reshape(-1, self._late.width) for each in keys]

    def _keys(self, texts: Sequence[str], role: Role) -> list[bytes]:
        return [key("tokens", *self._numbers, role, text) for text in texts]

    def _compute(self, texts: dict[bytes, str], role: Role) -> dict[bytes, bytes]:
        if not texts:
            return {}
        keys, tokens = list(texts), self._encoder.tokenize(list(texts.values()), role)
        made: dict[bytes, bytes] = {}
        for batch in batches([len(each) for each in tokens], self._bench.batch_tokens(self._encoder.device)):
            wholes = self._encoder.encode_whole([tokens[place] for place in batch])
            made |= {keys[place]: whole.tokens.tobytes() for place, whole in zip(batch, wholes, strict=True)}
        self._bench.cache.put(made)
        return made
