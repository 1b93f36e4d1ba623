"""Fine-tunes a bi-encoder on pairs without letting it forget what it knew."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.base.sampler import BatchSamplers, MultiDatasetBatchSamplers
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch import Tensor, nn

from models.training.backbone import LONGEST, hold_steady, refuse_to_overwrite, write_model
from models.training.pairs import Pair, passage_text


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What a training run of the encoder can be told."""

    dims: tuple[int, ...] = (384, 256, 128, 64)
    epochs: float = 1.0
    steps: int = -1
    batch: int = 64
    tokens: int = 192
    rate: float = 5e-5
    anchor: float = 10.0
    share: float = 1.0
    seed: int = 7


class AnchoredMatryoshkaLoss(MatryoshkaLoss):
    """Ranks at every dimension and keeps the full vector near the base model's."""

    def __init__(
        self, model: SentenceTransformer, base: SentenceTransformer, dims: Sequence[int], weight: float
    ) -> None:
        super().__init__(model, MultipleNegativesRankingLoss(model), matryoshka_dims=dims)
        self.base = base.requires_grad_(False).eval()
        self.weight = weight

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The ranking loss plus the weighted mean distance from the base model."""
        drifts: list[Tensor] = []
        plain = self.model.forward

        def watched(features: dict[str, Tensor]) -> dict[str, Tensor]:
            output: dict[str, Tensor] = plain(dict(features))
            drifts.append(self._drift(features, output))
            return output

        self.model.forward = watched  # type: ignore[method-assign, assignment]  # the loss hides its vectors
        try:
            # Merged columns would pad short queries to the width of passages: twice the cost.
            with column_merging_disabled():
                ranking: Tensor = super().forward(sentence_features, labels)
        finally:
            self.model.forward = plain  # type: ignore[method-assign]
        return ranking + self.weight * torch.stack(drifts).mean()

    def _drift(self, features: dict[str, Tensor], output: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            target = self.base(dict(features))["sentence_embedding"].float()
        ours = output["sentence_embedding"].float()
        return (1 - nn.functional.cosine_similarity(ours, target)).mean()


def train_encoder(base: Path, pairs: Mapping[str, Sequence[Pair]], output: Path, settings: EncoderSettings) -> None:
    """Trains a copy of the base model and writes it as half-precision weights."""
    refuse_to_overwrite(output)
    torch.manual_seed(settings.seed)
    model = SentenceTransformer(str(base), device="cpu", model_kwargs={"attn_implementation": "eager"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.max_seq_length = settings.tokens
    hold_steady(model)
    _fit(model, base, pairs, settings)
    _step_back(model, before, settings.share)
    model.max_seq_length = LONGEST
    write_model(model, output)


def _fit(
    model: SentenceTransformer, base: Path, pairs: Mapping[str, Sequence[Pair]], settings: EncoderSettings
) -> None:
    anchor = SentenceTransformer(str(base), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    with tempfile.TemporaryDirectory() as scratch:
        SentenceTransformerTrainer(
            model=model,
            args=_arguments(scratch, settings),
            train_dataset=_datasets(pairs, settings.seed),
            loss=AnchoredMatryoshkaLoss(model, anchor, settings.dims, settings.anchor),
        ).train()


def _arguments(scratch: str, settings: EncoderSettings) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        scratch,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        bf16=True,
        use_cpu=True,
        seed=settings.seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers.PROPORTIONAL,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    )


def _datasets(pairs: Mapping[str, Sequence[Pair]], seed: int) -> DatasetDict:
    """One data set a source, so that every batch is of one kind and its negatives are hard."""
    draw = random.Random(seed)
    return DatasetDict(
        {
            source: Dataset.from_dict(
                {
                    "query": [pair.query for pair in found],
                    "passage": [passage_text(pair, draw) for pair in found],
                }
            )
            for source, found in pairs.items()
        }
    )


def _step_back(model: SentenceTransformer, before: Mapping[str, Tensor], share: float) -> None:
    """Goes only a share of the way from the old weights to the new: often better than either end."""
    after = model.state_dict()
    floating = [name for name, value in after.items() if value.is_floating_point()]
    model.load_state_dict(after | {name: torch.lerp(before[name], after[name], share) for name in floating})
