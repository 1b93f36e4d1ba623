"""Learned sparse encoders in torch: SPLADE, and its kin whose queries are looked up rather than read.

A text becomes terms of the model's vocabulary with weights: the words that it has, and those that it could have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import Tokenizer

from models.folder import hash_folder, named_prompts
from models.tokens import TOKENISATION, TextTokenizer
from models.torch_body import Body, finite
from models.torch_loading import load, stored_tensors
from models.torch_runtime import completed, read_prompts
from models.types import NO_PROMPTS, ModelError, ModelOptions, Precision, Prompts, Role, SparseVector, Tokens

MOST_TERMS = 256
"""What a text weighs beyond so many terms is let go, the lightest first: otherwise one odd text could fill an index
with all of a vocabulary, and a bound is what the index's memory can be reckoned by. In every fingerprint."""

POSITIONS_AT_ONCE = 64
"""Tokens of each text that are pooled together: a token has a number for every term of the vocabulary."""

# A look-up has no limit of its own; tokenizers without one say 10**30.
_LONGEST = 10**6


class _Side(Protocol):
    """How texts of one side of the search are read."""

    text: TextTokenizer
    precision: Precision

    def encode(self, batch: Sequence[Tokens], most: int) -> list[SparseVector]: ...


class TorchSparseEncoder:
    """A SparseEncoder: the same weights as its `encode_query` and `encode_document`, the heaviest of them."""

    runtime = "torch"

    def __init__(self, name: str, path: Path, options: ModelOptions, prompts: Prompts = NO_PROMPTS) -> None:
        """With what its authors put in front of texts, for a folder that says nothing of it; the options come first."""
        model = load(SparseEncoder, name, path, options)
        _check_similarity(name, model)
        self.name = name
        own = completed(read_prompts(model), prompts, named_prompts(path))
        self.prompts: Prompts = {**own, **options.prompts.get(name, {})}
        self.most_terms = min(model.max_active_dims or MOST_TERMS, MOST_TERMS)
        self._sides = _sides(name, path, model, options)
        self.reads_queries = isinstance(self._sides["query"], _Reading)
        self.device, self.precision = str(model.device), self._sides["document"].precision
        self._text = self._sides["document"].text
        self.capacity = self._text.text_room - self._text.count(self.prompts["document"])
        if self.capacity < 1:
            raise ModelError(f"{name} leaves no room for text beside its prompt: choose another sparse encoder.")
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self._text.tokenizer

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        prompt = self.prompts[role]
        return self._sides[role].text.texts([prompt + text for text in texts])

    def encode(self, batch: Sequence[Tokens], role: Role) -> list[SparseVector]:
        """One forward pass over the whole batch, or none where terms are looked up."""
        return self._sides[role].encode(batch, self.most_terms) if batch else []

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limits": [self._sides["query"].text.limit, self._text.limit],
            "prompts": self.prompts,
            "terms": self.most_terms,
        }


class _Reading:
    """A transformer that foresees words, pooled over the text."""

    def __init__(self, name: str, path: Path, model: SparseEncoder, modules: Sequence[Any], options: ModelOptions):
        self._name = name
        self._body = Body(name, model, options, modules)
        _check_head(name, path, self._body.transformer.model)
        modules[-1].chunk_size = POSITIONS_AT_ONCE
        self.text, self.precision = self._body.plain_text(), self._body.precision

    def encode(self, batch: Sequence[Tokens], most: int) -> list[SparseVector]:
        with torch.inference_mode():
            pooled = self._body.run(batch)["sentence_embedding"]
            heaviest = pooled.topk(min(most, pooled.shape[1]), sorted=False)
        weights, terms = finite(self._name, heaviest.values), heaviest.indices.cpu().numpy().astype(np.int32)
        weights *= np.array([len(tokens) > 0 for tokens in batch])[:, None]  # what padding foresees is nobody's
        return [_vector(*row) for row in zip(terms, weights, strict=True)]


class _Looking:
    """A table that says what each token weighs, wherever it stands."""

    precision: Precision = "float32"

    def __init__(self, name: str, module: SparseStaticEmbedding) -> None:
        self._table = finite(name, module.weight.detach())
        if (self._table < 0).any():
            raise ModelError(f"{name} gives some words weights below 0, which no index of terms holds: choose another.")
        tokenizer: Any = module.tokenizer
        self.text = TextTokenizer(_bare(tokenizer.backend_tokenizer), min(tokenizer.model_max_length, _LONGEST))

    def encode(self, batch: Sequence[Tokens], most: int) -> list[SparseVector]:
        return [self._vector(np.unique(tokens.ids), most) for tokens in batch]

    def _vector(self, terms: np.ndarray[Any, np.dtype[np.int32]], most: int) -> SparseVector:
        heaviest = np.argsort(-self._table[terms], kind="stable")[:most]
        return _vector(terms[heaviest], self._table[terms[heaviest]])


def _vector(terms: np.ndarray[Any, np.dtype[np.int32]], weights: np.ndarray[Any, np.dtype[np.float32]]) -> SparseVector:
    order = np.argsort(terms)
    order = order[weights[order] > 0]
    return SparseVector(terms[order], weights[order])


def _sides(name: str, path: Path, model: SparseEncoder, options: ModelOptions) -> Mapping[Role, _Side]:
    """How queries and documents are read: alike, unless the model leads them different ways."""
    first, *rest = model.children()
    if not isinstance(first, Router):
        both = _side(name, path, model, [first, *rest], options)
        return {"query": both, "document": both}
    routes: Any = first.sub_modules
    if set(routes.keys()) != {"query", "document"} or first.route_mappings:
        raise ModelError(f"{name} leads texts other ways than those of queries and documents: choose another model.")
    return {
        "query": _side(name, path, model, [*routes["query"], *rest], options),
        "document": _side(name, path, model, [*routes["document"], *rest], options),
    }


def _side(name: str, path: Path, model: SparseEncoder, modules: Sequence[Any], options: ModelOptions) -> _Side:
    if len(modules) == 1 and isinstance(modules[0], SparseStaticEmbedding):
        return _Looking(name, modules[0])
    if not isinstance(modules[-1], SpladePooling):
        last = type(modules[-1]).__name__
        raise ModelError(f"{name} ends in {last}, which is not supported: choose a model that ends in SpladePooling.")
    return _Reading(name, path, model, modules, options)


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    """The same without special tokens, which are looked up by nobody."""
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.post_processor = None
    return bare


def _check_similarity(name: str, model: SparseEncoder) -> None:
    if model.similarity_fn_name != "dot":
        raise ModelError(
            f"{name} is compared by {model.similarity_fn_name}, where an index of terms sums products: choose a model "
            "that is compared by dot product."
        )


def _check_head(name: str, path: Path, body: Any) -> None:
    """Refuses a model that foresees no words, and one whose head transformers has made up from random numbers."""
    if body.get_output_embeddings() is None:
        raise ModelError(f"{name} foresees no words: choose a model with the head of a masked language model.")
    weights, stored = body.state_dict(), stored_tensors(path)
    there = {weights[key].data_ptr() for key in weights.keys() & stored}  # what is tied to another is saved once
    heads = {key for key in weights if not key.startswith(f"{body.base_model_prefix}.")}
    if missing := [key for key in sorted(heads - stored) if weights[key].data_ptr() not in there]:
        raise ModelError(f"{name} was saved without the head that foresees words ({', '.join(missing)}): train it.")
