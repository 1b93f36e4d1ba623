"""Encoders and rerankers in OpenVINO, converted from torch: the same numbers several times faster on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.arithmetic import prefers_eight_bits
from models.batch import TINY, check_finite, worded
from models.conversions import check, converted
from models.converted import Converted, Source
from models.eight_bits import Ranges, read_ranges
from models.folder import bears_eight_bits, check_folder, read_blends, read_unit
from models.late_head import read_late, rounded
from models.network import Network
from models.runtimes import Unavailable
from models.tokens import TextTokenizer
from models.types import NO_PROMPTS, Embedded, Ids, ModelOptions, Prompts, Role, Scores, Tokens, Vectors

log = structlog.get_logger()


class OpenvinoEncoder:
    """What TorchEncoder is, up to rounding, fingerprint included."""

    device = "cpu"
    runtime = "openvino"

    def __init__(self, name: str, path: Path, options: ModelOptions, prompts: Prompts = NO_PROMPTS) -> None:
        check_folder(name, path, "encoder")
        model = converted(Source(name, path, "encoder", options, prompts))
        facts = model.facts
        self.name = name
        self.prompts, self.dimensions, self.fingerprint = facts.prompts, facts.dimensions, facts.fingerprint
        self._text = TextTokenizer(model.tokenizer, facts.limit)
        self.capacity = self._text.text_room - self._text.count(self.prompts["document"])
        self.late = read_late(path)
        self._network = _checked(model, options)
        self.precision, self.grain = self._network.precision, self._network.grain

    @property
    def tokenizer(self) -> Tokenizer:
        return self._text.tokenizer

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        prompt = self.prompts[role]
        return self._text.texts([prompt + text for text in texts])

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """In small batches of like length; a batch that comes sorted by length costs nothing extra."""
        if not batch:
            return np.zeros((0, self.dimensions), np.float32)
        return self._unit(self._network.run(batch), batch)

    def inside(self, tokens: Tokens) -> slice:
        return self._text.inside(tokens)

    def encode_whole(self, batch: Sequence[Tokens]) -> list[Embedded]:
        """The same pass, with what it makes of each token."""
        if not batch:
            return []
        made = self._network.run_whole(batch)
        vectors = self._unit(np.stack([row for row, _ in made]), batch)
        states = [own[self.inside(tokens)] for (_, own), tokens in zip(made, batch, strict=True)]
        check_finite(self.name, np.concatenate(states))
        return [Embedded(vector, rounded(own)) for vector, own in zip(vectors, states, strict=True)]

    def _unit(self, rows: NDArray[np.float32], batch: Sequence[Tokens]) -> Vectors:
        raw = rows[:, : self.dimensions]
        unit: Vectors = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), TINY)
        check_finite(self.name, unit)
        return worded(unit, batch)


class OpenvinoReranker:
    """What TorchReranker is, likewise."""

    device = "cpu"
    runtime = "openvino"

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_folder(name, path, "reranker")
        self.blends, self.unit = read_blends(path), read_unit(path)
        model = converted(Source(name, path, "reranker", options, NO_PROMPTS))
        facts = model.facts
        self.name = name
        self.prompts, self.fingerprint = facts.prompts, facts.fingerprint
        self._text = TextTokenizer(model.tokenizer, facts.limit)
        self.capacity = self._text.pair_room - self._text.count(self.prompts["query"])
        self.tokenisation = self._text.mark()
        self._network = _perhaps_rounded(model, options, name, path)
        self.precision, self.grain = self._network.precision, self._network.grain

    @property
    def tokenizer(self) -> Tokenizer:
        return self._text.tokenizer

    def read(self, texts: Sequence[str]) -> list[Ids]:
        return self._text.contents(texts)

    def pair(self, query: str, texts: Sequence[Ids]) -> list[Tokens]:
        return self._text.pairs(self.prompts["query"] + query, texts)

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return self.pair(query, self.read(texts))

    def score(self, batch: Sequence[Tokens]) -> Scores:
        """In small batches of like length."""
        if not batch:
            return np.zeros(0, np.float32)
        scores = self._network.run(batch)[:, 0]
        check_finite(self.name, scores)
        return scores


def _perhaps_rounded(model: Converted, options: ModelOptions, name: str, path: Path) -> Network:
    """Unasked, a reranker computes in 8 bits where that is known to cost it next to nothing and saves a good deal."""
    ranges = read_ranges(path)
    if options.precision == "auto" and bears_eight_bits(path) and prefers_eight_bits():
        try:
            return _checked(model, replace(options, precision="int8"), ranges)
        except Unavailable as error:
            log.warning("reranker is not rounded to 8 bits", model=name, reason=str(error))
    return _checked(model, options, ranges)


def _checked(model: Converted, options: ModelOptions, ranges: Ranges | None = None) -> Network:
    network = Network(model.network, model.facts.padding, model.facts.limit, options, ranges)
    check(network, model.facts)
    return network
