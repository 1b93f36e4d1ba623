"""Trains a cross-encoder as a correction to the first stage, and the weights that blend the two."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from models.training.backbone import LONGEST, hold_steady, refuse_to_overwrite, write_model
from models.training.mine import Group


@dataclass(frozen=True, slots=True)
class RerankerSettings:
    """What a training run of the reranker can be told."""

    epochs: float = 1.0
    steps: int = -1
    batch: int = 16
    width: int = 16
    tokens: int = 256
    rate: float = 8e-5
    dense: float = 15.0
    dense_rate: float = 2e-2
    held_out: int = 400
    seed: int = 7


@dataclass(frozen=True, slots=True)
class BlendSettings:
    """Which groups the blend is fitted on: those the reranker never saw, given the same two numbers."""

    held_out: int = 400
    seed: int = 7


class ResidualListLoss(nn.Module):
    """Cross-entropy of the answer among its group, scored by logit plus weighted cosine."""

    def __init__(self, model: CrossEncoder, dense: float, width: int) -> None:
        super().__init__()
        self.model = model
        self.width = width
        self.dense_weight = nn.Parameter(torch.tensor(dense))

    def forward(
        self,
        inputs: tuple[list[str], list[list[str]]],
        labels: list[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """The mean over groups; each label holds the group's cosines, the answer's first."""
        queries, passages = inputs
        pairs = [(query, text) for query, texts in zip(queries, passages, strict=True) for text in texts]
        logits = self._logits(pairs, prompt, task)
        scores = logits + self.dense_weight * torch.cat(labels).to(logits.device)
        return _list_loss(torch.split(scores, [len(texts) for texts in passages]))

    def _logits(self, pairs: Sequence[tuple[str, str]], prompt: str | None, task: str | None) -> Tensor:
        # Neighbours in length share a forward pass: little of it is padding.
        order = sorted(range(len(pairs)), key=lambda at: sum(map(len, pairs[at])))
        parts = []
        for start in range(0, len(order), self.width):
            chosen = [pairs[at] for at in order[start : start + self.width]]
            features = self.model.preprocess(chosen, prompt=prompt, task=task)
            parts.append(self.model(batch_to_device(features, self.model.device))["scores"].view(-1))
        return torch.cat(parts).float()[torch.tensor(order).argsort()]


def train_reranker(base: Path, groups: Sequence[Group], output: Path, settings: RerankerSettings) -> None:
    """Trains a cross-encoder on top of the base model and writes it with the blend that was learned beside it."""
    refuse_to_overwrite(output)
    torch.manual_seed(settings.seed)
    model = CrossEncoder(
        str(base),
        num_labels=1,
        activation_fn=nn.Identity(),
        device="cpu",
        model_kwargs={"attn_implementation": "eager"},
    )
    model.max_seq_length = settings.tokens
    hold_steady(model)
    loss = ResidualListLoss(model, settings.dense, settings.width)
    with tempfile.TemporaryDirectory() as scratch:
        CrossEncoderTrainer(
            model=model, args=_arguments(scratch, settings), train_dataset=_dataset(groups), loss=loss
        ).train()
    model.max_seq_length = LONGEST
    write_model(model, output)
    write_blend(output, loss.dense_weight.item())


def split(groups: Sequence[Group], held_out: int, seed: int) -> tuple[list[Group], list[Group]]:
    """Groups to train on, and groups of other queries to fit and judge with."""
    queries = sorted({group.query for group in groups})
    held = frozenset(random.Random(seed).sample(queries, min(held_out, max(1, len(queries) // 10))))
    return [group for group in groups if group.query not in held], [group for group in groups if group.query in held]


def fit_blend(reranker: CrossEncoder, encoder: SentenceTransformer, groups: Sequence[Group]) -> float:
    """The weight of this encoder's cosine beside this reranker's logit that explains the groups best."""
    sizes = [len(group.passages) for group in groups]
    logits = torch.cat([_predict(reranker, group) for group in groups])
    cosines = torch.cat([_cosines(encoder, group) for group in groups])
    # Logarithms, so that neither weight can turn negative.
    logs = torch.tensor([0.0, math.log(15)], requires_grad=True)
    search = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        search.zero_grad()
        loss = _list_loss(torch.split(logs[0].exp() * logits + logs[1].exp() * cosines, sizes))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    search.step(step)  # type: ignore[no-untyped-call]  # and this
    rerank, dense = logs.exp().tolist()
    return float(dense / rerank)


def write_blend(folder: Path, dense: float) -> None:
    """How a service adds the two scores: one logit to so much cosine."""
    blend = {"rerank": 1.0, "dense": round(dense, 4)}
    (folder / "blend.json").write_text(json.dumps(blend) + "\n", encoding="utf-8")


def _list_loss(groups: Sequence[Tensor]) -> Tensor:
    return torch.stack([-group.log_softmax(0)[0] for group in groups]).mean()


def _predict(reranker: CrossEncoder, group: Group) -> Tensor:
    scores = reranker.predict([(group.query, text) for text in group.passages], show_progress_bar=False)
    return torch.as_tensor(scores)


def _cosines(encoder: SentenceTransformer, group: Group) -> Tensor:
    query, *passages = encoder.encode([group.query, *group.passages], normalize_embeddings=True)
    return torch.stack([torch.as_tensor(passage @ query) for passage in passages])


def _dataset(groups: Sequence[Group]) -> Dataset:
    rows = [{"query": group.query, "passages": group.passages, "label": group.dense} for group in groups]
    return Dataset.from_list(rows)


def _arguments(scratch: str, settings: RerankerSettings) -> CrossEncoderTrainingArguments:
    return CrossEncoderTrainingArguments(
        scratch,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        learning_rate_mapping={"dense_weight": settings.dense_rate},
        lr_scheduler_type="cosine",
        warmup_steps=0.08,
        bf16=True,
        use_cpu=True,
        seed=settings.seed,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    )
