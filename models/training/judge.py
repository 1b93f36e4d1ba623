"""Judges models by held-out queries, with the library's evaluators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim
from torch import Tensor

from models.training.groups import Group
from models.training.machine import Machine

Metrics = dict[str, float]
Scores = NDArray[np.float64]
Weights = tuple[float, float]
"""Of the cosine and of the BM25 share, to one logit."""

DEPTH = 10
MEASURES = ("ndcg", "mrr", "recall")


@dataclass(frozen=True, slots=True)
class Questions:
    """Held-out queries, the passages to find among, and which of these answer."""

    queries: Mapping[str, str]
    passages: Mapping[str, str]
    answers: Mapping[str, set[str]]


class _Cut(InformationRetrievalEvaluator):
    """Judges vectors that are there already, cut to a length."""

    def __init__(self, questions: Questions, length: int) -> None:
        super().__init__(
            dict(questions.queries),
            dict(questions.passages),
            {query: set(found) for query, found in questions.answers.items()},
            mrr_at_k=[DEPTH],
            ndcg_at_k=[DEPTH],
            accuracy_at_k=[1],
            precision_recall_at_k=[DEPTH],
            map_at_k=[DEPTH],
            score_functions={"cosine": cos_sim},
            write_csv=False,
        )
        self.length = length
        self.vectors: Mapping[str, Tensor] = {}

    def embed_inputs(  # type: ignore[override]  # tensors do where arrays do
        self, model: Any, sentences: Any, encode_fn_name: str | None = None, *_: Any, **__: Any
    ) -> Tensor:
        return self.vectors[encode_fn_name or ""][:, : self.length]


class EncoderJudge(BaseEvaluator):
    """nDCG, MRR and recall at ten by exact search, at each length that vectors may be cut to. Whoever is judged reads
    so many tokens of a text, be it trained on fewer."""

    def __init__(self, questions: Questions, dims: Sequence[int], tokens: int, machine: Machine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self._questions = questions
        self._tokens = tokens
        self._machine = machine
        self._cuts = [_Cut(questions, length) for length in dims]
        self.primary_metric = f"ndcg@{DEPTH} {dims[0]}"

    def __call__(self, model: Any, *_: Any, **__: Any) -> Metrics:
        vectors = self._vectors(model)
        found: Metrics = {}
        for cut in self._cuts:
            cut.vectors = vectors
            scores: Any = cut(model)
            for measure in MEASURES:
                found[f"{measure}@{DEPTH} {cut.length}"] = float(scores[f"cosine_{measure}@{DEPTH}"])
        return found

    def _vectors(self, model: SentenceTransformer) -> Mapping[str, Tensor]:
        settings: dict[str, Any] = {"convert_to_tensor": True, "show_progress_bar": False}
        with self._machine.faster(), _reading(self._tokens, model):
            queries = model.encode_query(list(self._questions.queries.values()), **settings)
            passages = model.encode_document(list(self._questions.passages.values()), **settings)
        return {"query": queries.float(), "document": passages.float()}


@contextmanager
def _reading(tokens: int, model: SentenceTransformer) -> Iterator[None]:
    usual, model.max_seq_length = model.max_seq_length, tokens
    try:
        yield
    finally:
        model.max_seq_length = usual


class _Remembered:
    """A reranker that is asked for each pair once. Evaluators want no more of a model than its predictions."""

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model
        self._known: dict[tuple[str, str], float] = {}

    def predict(self, pairs: Sequence[Sequence[str]], **settings: Any) -> Scores:
        wanted = [(query, text) for query, text in pairs]
        if new := [pair for pair in dict.fromkeys(wanted) if pair not in self._known]:
            self._known |= zip(new, np.asarray(self._model.predict(new, **settings), np.float64).tolist(), strict=True)
        return np.array([self._known[pair] for pair in wanted])


class _Sum:
    """The same with the first stage's weighted scores added."""

    def __init__(self, model: _Remembered, groups: Sequence[Group], weights: Weights) -> None:
        self._model = model
        self._added = {
            (group.query, text): weights[0] * dense + weights[1] * lexical
            for group in groups
            for text, dense, lexical in zip(group.passages, group.dense, group.lexical, strict=True)
        }

    def predict(self, pairs: Sequence[Sequence[str]], **settings: Any) -> Scores:
        return self._model.predict(pairs, **settings) + [self._added[query, text] for query, text in pairs]


class _Ranking(CrossEncoderRerankingEvaluator):
    """Judges whatever predicts."""

    def store_metrics_in_model_card_data(self, *_: Any, **__: Any) -> None:
        """Nothing: the card is ours."""


def gains(ranks: Sequence[int]) -> Scores:
    """nDCG of orders in which the one passage that answers has these ranks."""
    return np.array([1 / np.log2(1 + rank) if rank <= DEPTH else 0.0 for rank in ranks])


class RerankerJudge(BaseEvaluator):
    """nDCG and MRR at ten within held-out groups: by the sum of first stage and model, by the model alone, and by the
    first stage."""

    def __init__(self, groups: Sequence[Group], weights: Callable[[], Weights], machine: Machine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # here too
        self.primary_metric = f"ndcg@{DEPTH} with first stage"
        self._groups = groups
        self._weights = weights
        self._machine = machine
        self._judge = _Ranking([_sample(group) for group in groups], at_k=DEPTH, write_csv=False)

    def __call__(self, model: Any, *_: Any, **__: Any) -> Metrics:
        with self._machine.faster():
            logits = _Remembered(model)
            alone: Any = self._judge(cast(CrossEncoder, logits))
            both: Any = self._judge(cast(CrossEncoder, _Sum(logits, self._groups, self._weights())))
        orders = {"with first stage": (both, ""), "alone": (alone, ""), "first stage": (alone, "base_")}
        return {
            f"{measure}@{DEPTH} {order}": float(scores[f"{prefix}{measure}@{DEPTH}"])
            for measure in ("ndcg", "mrr")
            for order, (scores, prefix) in orders.items()
        }


def _sample(group: Group) -> dict[str, Any]:
    ranked = sorted(zip(group.dense, group.passages, strict=True), key=lambda each: -each[0])
    return {"query": group.query, "positive": [group.answer], "documents": [text for _, text in ranked]}
