"""Encoders and rerankers in torch, opened by sentence-transformers and fed with tokens cut by our own hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base import BaseModel
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch import Tensor

from models.batch import TINY, worded
from models.folder import check_folder, hash_folder, named_prompts, read_blends, read_unit, wants_end
from models.late_head import read_late, rounded
from models.tokens import TOKENISATION
from models.torch_body import Body, finite
from models.torch_late import TOKENS, attach
from models.torch_loading import check_head, load
from models.types import (
    NO_PROMPTS,
    WHOLE,
    Embedded,
    Ids,
    ModelError,
    ModelOptions,
    Prompts,
    Role,
    Scores,
    Tokens,
    Vectors,
)

Run = Callable[[Sequence[Tokens]], Mapping[str, Tensor]]
"""A forward pass: of what a model says, a row for each text; of what it says of tokens, a row for each of those, text
by text or one behind the other."""

_PROMPT_NAMES: Mapping[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


class TorchEncoder:
    """A SentenceTransformer: the same vectors as its `encode_query` and `encode_document`, always of unit length."""

    runtime = "torch"
    grain = WHOLE

    def __init__(self, name: str, path: Path, options: ModelOptions, prompts: Prompts = NO_PROMPTS) -> None:
        """With what its authors put in front of texts, for a folder that says nothing of it; the options come first."""
        check_folder(name, path, "encoder")
        model = load(SentenceTransformer, name, path, options)
        own = completed(read_prompts(model), prompts, named_prompts(path))
        self.prompts: Prompts = {**own, **options.prompts.get(name, {})}
        _check_pooling(name, model, self.prompts)
        self.name = name
        self.dimensions = _dimensions(name, model)
        self.body = Body(name, model, options)
        self.late = read_late(path)
        if self.late:
            attach(name, self.body, self.late)
        self.run: Run = self.body.run
        self.text = self.body.plain_text()
        if wants_end(path) and not self.text.ends:
            _check_last(name, model)
        self.device, self.precision = self.body.device, self.body.precision
        self.capacity = self.text.text_room - self.text.count(self.prompts["document"])
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        prompt = self.prompts[role]
        return self.text.texts([prompt + text for text in texts])

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """One forward pass over the whole batch, however large it is."""
        if not batch:
            return np.zeros((0, self.dimensions), np.float32)
        with torch.inference_mode():
            return self._unit(self.run(batch), batch)

    def inside(self, tokens: Tokens) -> slice:
        return self.text.inside(tokens)

    def encode_whole(self, batch: Sequence[Tokens]) -> list[Embedded]:
        """The same pass, with what it makes of each token."""
        if not batch:
            return []
        with torch.inference_mode():
            made = self.run(batch)
            vectors, states = self._unit(made, batch), finite(self.name, made[TOKENS])
        each = _apart(states, [max(len(tokens), 1) for tokens in batch])
        return [
            Embedded(vector, rounded(own[self.inside(tokens)]))
            for vector, own, tokens in zip(vectors, each, batch, strict=True)
        ]

    def _unit(self, made: Mapping[str, Tensor], batch: Sequence[Tokens]) -> Vectors:
        raw = made["sentence_embedding"][:, : self.dimensions]
        return worded(finite(self.name, raw / raw.norm(dim=1, keepdim=True).clamp(min=TINY)), batch)

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limit": self.text.limit,
            "prompts": self.prompts,
            "dimensions": self.dimensions,
            "normalised": True,
        }


class TorchReranker:
    """A CrossEncoder with one label: the same scores as its `predict`."""

    runtime = "torch"
    grain = WHOLE

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_folder(name, path, "reranker")
        self.blends, self.unit = read_blends(path), read_unit(path)
        model = load(CrossEncoder, name, path, options)
        check_head(name, path, model)
        self.name = name
        self.prompts: Prompts = {"query": model.prompts.get(model.default_prompt_name or "") or "", "document": ""}
        self.activation: Callable[[Tensor], Tensor] = model.activation_fn
        self.body = Body(name, model, options)
        self.run: Run = self.body.run
        self.text = self.body.plain_text()
        self.device, self.precision = self.body.device, self.body.precision
        self.capacity = self.text.pair_room - self.text.count(self.prompts["query"])
        self.tokenisation = self.text.mark()
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    def read(self, texts: Sequence[str]) -> list[Ids]:
        return self.text.contents(texts)

    def pair(self, query: str, texts: Sequence[Ids]) -> list[Tokens]:
        return self.text.pairs(self.prompts["query"] + query, texts)

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return self.pair(query, self.read(texts))

    def score(self, batch: Sequence[Tokens]) -> Scores:
        """One forward pass over the whole batch, however large it is."""
        if not batch:
            return np.zeros(0, np.float32)
        with torch.inference_mode():
            scores = self.activation(self.run(batch)["scores"])
        return finite(self.name, scores.reshape(len(batch)))

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limit": self.text.limit,
            "prompt": self.prompts["query"],
            "activation": repr(self.activation),
            "blends": self.blends.facts,
        }


def _apart(states: NDArray[np.float32], lengths: Sequence[int]) -> Sequence[NDArray[np.float32]]:
    """Of each text the states of its tokens."""
    return list(states) if states.ndim == 3 else np.split(states, np.cumsum(lengths)[:-1])


def read_prompts(model: BaseModel) -> Prompts:
    """What encode_query and encode_document put in front of a text."""
    default = model.prompts.get(model.default_prompt_name or "") or ""
    return {role: _first(model.prompts, names, default) for role, names in _PROMPT_NAMES.items()}


def _first(prompts: Mapping[str, str | None], names: Sequence[str], default: str) -> str:
    return next((prompts[name] for name in names if name in prompts), default) or ""


def completed(own: Prompts, known: Prompts, named: Set[str]) -> Prompts:
    """A model's own prompts, and where it was saved without one that which its authors make known elsewhere."""
    silent = {role for role, names in _PROMPT_NAMES.items() if named.isdisjoint(names) and not own[role]}
    return {role: (known if role in silent else own)[role] for role in _PROMPT_NAMES}


def _dimensions(name: str, model: SentenceTransformer) -> int:
    dimensions = model.get_embedding_dimension()
    if not dimensions:
        raise ModelError(f"{name} does not say how long its vectors are: choose a model with a pooling module.")
    return int(dimensions)


def _check_pooling(name: str, model: SentenceTransformer, prompts: Prompts) -> None:
    poolings = [module for module in model.children() if isinstance(module, Pooling)]
    if any(prompts.values()) and not all(pooling.include_prompt for pooling in poolings):
        raise ModelError(f"{name} leaves its prompts out of pooling, which is not supported: choose another encoder.")


def _check_last(name: str, model: SentenceTransformer) -> None:
    """Refuses to pool the last token where the end token is lost: transformers 5 no longer adds it by itself."""
    if any(isinstance(module, Pooling) and "lasttoken" in module.pooling_mode for module in model.children()):
        raise ModelError(
            f"{name} pools the end token, which its tokenizer.json leaves out although its configuration asks for it: "
            "add the token to the post-processor of tokenizer.json, or choose another encoder."
        )
