"""Late interaction as a reranker: a vector for each token, and for each of the query's tokens the text's nearest one.

Unlike a cross-encoder it reads query and text apart, so that a batch of pairs needs each of its queries only once. Its
pairs are both sides one after the other, and their types say which token is on which side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tokenizers import Tokenizer
from torch import Tensor

from models.folder import check_content, hash_folder, read_blends
from models.tokens import TOKENISATION
from models.torch_body import Body, finite
from models.torch_loading import load
from models.torch_runtime import read_prompts
from models.types import WHOLE, Ids, ModelError, ModelOptions, Role, Scores, Tokens, Unit

_QUERY, _TEXT, _EXPANSION = range(3)


@dataclass(frozen=True, slots=True)
class _Expansion:
    """Mask tokens that fill a short query up: the model makes more words of the query out of them."""

    token: int = 0
    length: int = 0
    attended: bool = True
    """Whether the query's own tokens see them."""

    def widen(self, query: Tokens) -> Tokens:
        missing = max(self.length - len(query), 0)
        ids = np.concatenate([query.ids, np.full(missing, self.token, np.int32)])
        types = np.concatenate([np.full(len(query), _QUERY, np.int32), np.full(missing, _EXPANSION, np.int32)])
        return Tokens(ids, types, max(query.total, len(ids)))


class LateReranker:
    """A MultiVectorEncoder: the same scores as its `similarity` of queries and documents."""

    runtime = "torch"
    grain = WHOLE
    unit: Unit = "similarity"

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_content(name, path)
        self.name = name
        self.blends = read_blends(path)
        self._model = load(MultiVectorEncoder, name, path, options)
        self._body = Body(name, self._model, options)
        self.prompts = read_prompts(self._model)
        module = self._body.transformer
        self._expansion = _expansion(module)
        self._query = self._body.text(_query_limit(module))
        self._text = self._body.text(module.document_length)
        self.device, self.precision = self._body.device, self._body.precision
        # The query has room of its own, so this is what is left to the text, whatever the query.
        self.capacity = self._text.text_room - self._text.count(self.prompts["document"])
        if self.capacity < 1:
            raise ModelError(f"{name} leaves no room for text beside its prompt: raise document_length.")
        self.tokenisation = self._text.mark(self.prompts["document"])
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self._text.tokenizer

    def read(self, texts: Sequence[str]) -> list[Ids]:
        return self._text.contents([self.prompts["document"] + each for each in texts])

    def pair(self, query: str, texts: Sequence[Ids]) -> list[Tokens]:
        head = self._expansion.widen(self._query.texts([self.prompts["query"] + query])[0])
        return [_joined(head, text) for text in self._text.singles(texts)]

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return self.pair(query, self.read(texts))

    def score(self, batch: Sequence[Tokens]) -> Scores:
        """One forward pass over the batch's texts, and one over the queries that differ."""
        if not batch:
            return np.zeros(0, np.float32)
        queries = [_side(pair, text=False) for pair in batch]
        distinct = {_key(query): query for query in queries}
        with torch.inference_mode():
            vectors = dict(zip(distinct, self._vectors(list(distinct.values()), "query"), strict=True))
            texts = self._vectors([_side(pair, text=True) for pair in batch], "document")
            scores = self._model.similarity_pairwise([vectors[_key(query)] for query in queries], texts)
        return finite(self.name, scores)

    def _vectors(self, batch: Sequence[Tokens], task: Role) -> list[Tensor]:
        """A vector for each token that counts."""
        features: dict[str, Any] = self._body.inputs(batch)
        if task == "query":
            features = _expanded(features, batch, attended=self._expansion.attended)
        features = self._body.forward(features, task)
        masks = features["attention_mask"].bool()
        return [vectors[mask] for vectors, mask in zip(features["token_embeddings"], masks, strict=True)]

    def _facts(self) -> dict[str, Any]:
        masks = [module for module in self._model.children() if isinstance(module, MultiVectorMask)]
        return {
            "tokenisation": TOKENISATION,
            "limits": [self._query.limit, self._text.limit],
            "prompts": self.prompts,
            "expansion": asdict(self._expansion),
            "skipped": [sorted(module.skiplist_words) for module in masks],
            "similarity": self._model.similarity_fn_name,
            "blends": self.blends.facts,
        }


def _expansion(module: Any) -> _Expansion:
    found = module.query_expansion
    if not found:
        return _Expansion()
    tokenizer = module.tokenizer
    spare = tokenizer.eos_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    token = spare if found["token"] is None else tokenizer.convert_tokens_to_ids(found["token"])
    return _Expansion(int(token), int(found["length"]), bool(found["attend"]))


def _query_limit(module: Any) -> int | None:
    """What is fixed in length is cut at it; a query that is only widened keeps the room that it has."""
    found = module.query_expansion
    if found and found["strategy"] == "fixed":
        return int(found["length"])
    longest: int | None = module.query_length
    return longest


def _joined(query: Tokens, text: Tokens) -> Tokens:
    ids = np.concatenate([query.ids, text.ids])
    types = np.concatenate([query.types, np.full(len(text), _TEXT, np.int32)])
    return Tokens(ids, types, query.total + text.total)


def _side(pair: Tokens, *, text: bool) -> Tokens:
    """The pair's text, or its query with what fills it up."""
    mine = (pair.types == _TEXT) == text
    return Tokens(pair.ids[mine], np.zeros_like(pair.types[mine]) if text else pair.types[mine], int(mine.sum()))


def _key(query: Tokens) -> bytes:
    return query.ids.tobytes() + query.types.tobytes()


def _expanded(features: dict[str, Any], batch: Sequence[Tokens], *, attended: bool) -> dict[str, Any]:
    """Inputs in which the filling counts for the score, and for the query's own tokens only where it is attended."""
    filling = torch.zeros_like(features["attention_mask"], dtype=torch.bool)
    for row, query in enumerate(batch):
        filling[row, : len(query)] = torch.from_numpy(query.types == _EXPANSION).to(filling.device)
    added: dict[str, Any] = {"query_expansion_positions": filling}
    if not attended:
        added["attention_mask"] = features["attention_mask"].masked_fill(filling, 0)
    if "token_type_ids" in features:
        added["token_type_ids"] = torch.zeros_like(features["token_type_ids"])
    return features | added
