"""A model on its way from torch to OpenVINO: what is converted, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from models.folder import Kind
from models.types import ModelOptions, Prompts, Tokens


@dataclass(frozen=True, slots=True)
class Source:
    """A model to convert, and how it is to be opened."""

    name: str
    path: Path
    kind: Kind
    options: ModelOptions
    known: Prompts
    """What its authors put in front of texts, where its folder says nothing of it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What torch read off a model, and what it made of a few texts."""

    prompts: Prompts
    limit: int
    padding: int
    dimensions: int
    """Of its vectors; of a reranker 1, its score."""
    fingerprint: str
    samples: list[tuple[list[int], list[int]]]
    """Token ids and types."""
    expected: list[list[float]]
    near: list[float]
    """How near the samples are to the first one, token by token; nothing where it makes nothing of tokens."""

    def tokens(self) -> list[Tokens]:
        return [Tokens(np.asarray(ids, np.int32), np.asarray(types, np.int32), len(ids)) for ids, types in self.samples]


@dataclass(frozen=True, slots=True)
class Converted:
    """A model that is ready to be compiled."""

    network: Any
    tokenizer: Tokenizer
    facts: Facts
