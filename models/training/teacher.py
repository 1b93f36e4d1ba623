"""A teacher for the reranker: an encoder whose token vectors are compared one by one, each of the query's with the
nearest of the passage's, and the rarer it is the more it counts.

Nothing was trained for that, and yet it ranks better than a small cross-encoder after a short training. A reranker that
learns from its opinions beside the answers keeps what the encoder knows, where answers alone would have it forget that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from models.training.backbone import within
from models.training.errors import TrainingError
from models.training.groups import Group
from models.training.lexicon import rarity
from models.training.watch import Watch

BATCH = 32
"""Texts in one pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A text's tokens, without those that only frame it, and their vectors of unit length."""

    ids: tuple[int, ...]
    vectors: Tensor


class Teacher:
    """Holds the token vectors of one source's passages at a time."""

    def __init__(self, encoder: SentenceTransformer, layer: int, tokens: int, watch: Watch) -> None:
        self._encoder = encoder
        body: Any = encoder.transformers_model
        self._body = body
        if layer > (layers := body.config.num_hidden_layers):
            raise TrainingError(f"--teacher-layer is {layer}, and the teacher has {layers} layers.")
        self._layer = layer or -1
        self._tokens = within(tokens, encoder)
        self._watch = watch

    def opinions(self, groups: Sequence[Group]) -> list[list[float]]:
        """Of each group's passages: -1 to 1, in the groups' order."""
        found: list[list[float]] = [[] for _ in groups]
        for source in dict.fromkeys(group.source for group in groups):
            places = [place for place, group in enumerate(groups) if group.source == source]
            for place, opinion in zip(places, self._of_source([groups[place] for place in places]), strict=True):
                found[place] = opinion
        return found

    def _of_source(self, groups: Sequence[Group]) -> Iterator[list[float]]:
        named = groups[0].source or "groups"
        queries = self._read({group.query for group in groups}, "query", f"teacher reads {named} queries")
        texts = {text for group in groups for text in group.passages}
        passages = self._read(texts, "document", f"teacher reads {named} passages")
        seen = Counter(token for read in passages.values() for token in set(read.ids))
        for group in groups:
            query = queries[group.query]
            held = np.array([seen[each] for each in query.ids], np.float64)
            weights = torch.from_numpy(rarity(held, len(passages)).astype(np.float32))
            yield [nearness(query.vectors, passages[text].vectors, weights) for text in group.passages]

    @torch.inference_mode()
    def _read(self, texts: set[str], role: str, told: str) -> Mapping[str, Read]:
        found: dict[str, Read] = {}
        ordered = sorted(texts, key=lambda text: (len(text), text))
        prompt = self._encoder.prompts.get(role) or ""
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            found |= zip(batch, self._vectors([prompt + text for text in batch]), strict=True)
            self._watch.advance(told, len(found), len(ordered))
        return found

    def _vectors(self, texts: Sequence[str]) -> Iterator[Read]:
        taken = self._encoder.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._tokens,
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(self._encoder.device)
        words = taken["attention_mask"].bool() & ~taken.pop("special_tokens_mask").bool()
        states = self._body(**taken, output_hidden_states=True).hidden_states[self._layer]
        states = torch.nn.functional.normalize(states.float(), dim=-1).half().cpu()
        for ids, kept, vectors in zip(taken["input_ids"], words.cpu(), states, strict=True):
            yield Read(tuple(ids[kept].tolist()), vectors[kept].clone())


def nearness(query: Tensor, passage: Tensor, rarity: Tensor) -> float:
    """The mean, by rarity, of what the nearest token of the passage has in common with each of the query's."""
    if not len(query) or not len(passage):
        return 0.0
    nearest = (query.float() @ passage.float().T).max(dim=1).values
    return float(np.round((nearest @ rarity / rarity.sum()).item(), 5))
