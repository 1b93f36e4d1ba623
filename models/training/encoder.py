"""Fine-tunes a bi-encoder on pairs without letting it forget what it knew."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.base.sampler import BatchSamplers, MultiDatasetBatchSamplers
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch import Tensor, nn

from models.torch_loading import loading
from models.training.backbone import carry_late, hold_steady, limit, prompted, step_back, write_model
from models.training.bench import Bench
from models.training.card import Account, Report
from models.training.held_out import APART, hold_out, refuse_nothing
from models.training.judge import EncoderJudge, Metrics, Questions
from models.training.pairs import (
    Pair,
    answers,
    described,
    passage_text,
    read_pairs,
    sample,
    titles_tell_nothing,
    without_negatives,
)
from models.training.settings import EncoderSettings, RunSettings, asked_prompts, caps, dimensions
from models.training.trainer import EncoderTrainer, on_one_device
from models.training.watch import Watch

BYSTANDERS = 2000
"""Most passages that answer no held-out query but are there to be mistaken for answers."""


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
        # Merged columns would pad short queries to the width of passages: twice the cost.
        with self._watched(drifts), column_merging_disabled():
            ranking: Tensor = super().forward(sentence_features, labels)
        return ranking + self.weight * torch.stack(drifts).mean() if drifts else ranking

    @contextmanager
    def _watched(self, drifts: list[Tensor]) -> Iterator[None]:
        plain = self.model.forward

        def watched(features: dict[str, Tensor]) -> dict[str, Tensor]:
            output: dict[str, Tensor] = plain(dict(features))
            drifts.append(self._drift(features, output))
            return output

        if self.weight:
            self.model.forward = watched  # type: ignore[method-assign, assignment]  # the loss hides its vectors
        try:
            yield
        finally:
            self.model.forward = plain  # type: ignore[method-assign]

    def _drift(self, features: dict[str, Tensor], output: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            target = self.base(dict(features))["sentence_embedding"].float()
        ours = output["sentence_embedding"].float()
        return (1 - nn.functional.cosine_similarity(ours, target)).mean()


@dataclass(frozen=True, slots=True)
class EncoderData:
    """What is trained on, and what is judged by."""

    pairs: Mapping[str, Sequence[Pair]]
    questions: Questions | None
    account: Account


def train_encoder(pairs: Path, output: Path, settings: EncoderSettings, watch: Watch) -> Report:
    """Trains a copy of the base model and writes it as half-precision weights, with a card."""
    bench = Bench.set_up("encoder", pairs, output, settings, watch)
    data = prepare(read_pairs(pairs), settings)
    watch.say(data.account.data)
    model = _open(bench)
    dims, machine = _dims(model, settings), bench.machine
    judge = EncoderJudge(data.questions, dims, limit(model), machine) if data.questions else None
    before = bench.judge_base(judge, model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fitted = bench.fit(_trainer(model, data.pairs, judge, bench))

    def write(folder: Path) -> Metrics:
        step_back(model, start, settings.share)
        write_model(model, folder, limit(model))
        carry_late(bench.base.folder, folder)
        return judge(_opened(folder, bench)) if judge else {}

    return bench.finish(write, data.account, before, fitted)


def prepare(pairs: Sequence[Pair], settings: RunSettings) -> EncoderData:
    """Samples the pairs and keeps some apart."""
    chosen = [pair for found in sample(pairs, caps(settings.take), settings.seed).values() for pair in found]
    rest, held = hold_out(
        chosen,
        lambda pair: pair.query,
        lambda pair: pair.passage.text,
        settings.held_out,
        settings.apart,
        settings.seed,
    )
    refuse_nothing(rest)
    if settings.apart == "both":
        rest = without_negatives(rest, {text for pair in held for text in (pair.passage.text, pair.passage.titled)})
    by_source = {source: list(found) for source, found in groupby(rest, lambda pair: pair.source)}
    questions = _questions(held, rest, pairs, settings.seed) if held else None
    return EncoderData(by_source, questions, _account(chosen, questions, settings))


def datasets(pairs: Mapping[str, Sequence[Pair]], negatives: int, seed: int) -> DatasetDict:
    """One data set a source, so that every batch is of one kind and its negatives are hard."""
    draw = random.Random(seed)
    columns: dict[str, dict[str, list[str]]] = {}
    for source, found in pairs.items():
        for pair in found:
            text, hard = passage_text(pair, draw), pair.negatives[:negatives]
            name = f"{source} with {len(hard)} negatives" if hard else source
            row = {"query": pair.query, "passage": text} | {f"negative_{at}": text for at, text in enumerate(hard)}
            for column, value in row.items():
                columns.setdefault(name, {}).setdefault(column, []).append(value)
    return DatasetDict({name: Dataset.from_dict(rows) for name, rows in columns.items()})


def column_prompts(model: SentenceTransformer, data: DatasetDict) -> dict[str, str]:
    """What stands in front of each column's texts, as it will when the model is served."""
    names = {name for rows in data.values() for name in rows.column_names}
    prompts = {name: model.prompts["query" if name == "query" else "document"] or "" for name in names}
    return {name: prompt for name, prompt in prompts.items() if prompt}


def _open(bench: Bench[EncoderSettings]) -> SentenceTransformer:
    base = bench.base
    model = prompted(_opened(base.folder, bench), base.name, base.folder, asked_prompts(bench.settings))
    model.max_seq_length = min(bench.settings.tokens, limit(model))
    hold_steady(model)
    return model


def _opened(folder: Path, bench: Bench[EncoderSettings]) -> SentenceTransformer:
    with loading(str(folder), folder):
        return SentenceTransformer(str(folder), device=bench.machine.device, model_kwargs=bench.machine.attention)


def _dims(model: SentenceTransformer, settings: EncoderSettings) -> tuple[int, ...]:
    return dimensions(settings.dims, model.get_embedding_dimension() or 0)


def _trainer(
    model: SentenceTransformer,
    pairs: Mapping[str, Sequence[Pair]],
    judge: EncoderJudge | None,
    bench: Bench[EncoderSettings],
) -> EncoderTrainer:
    settings = bench.settings
    data = datasets(pairs, settings.negatives, settings.seed)
    base = bench.machine.open_frozen(bench.base.folder)
    arguments = SentenceTransformerTrainingArguments(
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers.PROPORTIONAL,
        prompts=column_prompts(model, data),
        **bench.arguments(judge),
    )
    return EncoderTrainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=data,
        loss=AnchoredMatryoshkaLoss(model, base, _dims(model, settings), settings.anchor),
        evaluator=judge,
    )


def _questions(held: Sequence[Pair], rest: Sequence[Pair], every: Sequence[Pair], seed: int) -> Questions:
    """Held-out queries among their own answers and a sample of all other passages."""
    others = {pair.passage.key: pair for pair in rest}
    drawn = random.Random(seed).sample(sorted(others), min(BYSTANDERS, len(others)))
    pool = {pair.passage.key: pair for pair in held} | {key: others[key] for key in drawn}
    plain = {source for source in {pair.source for pair in held} if not titles_tell_nothing(_of(source, held))}
    known = answers(every)
    return Questions(
        {pair.query: pair.query for pair in held},
        {_name(key): pair.passage.text if key[0] in plain else pair.passage.titled for key, pair in pool.items()},
        {pair.query: {_name(key) for key in known[pair.query.casefold()] if key in pool} for pair in held},
    )


def _of(source: str, pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.source == source]


def _name(key: tuple[str, str]) -> str:
    return "/".join(key)


def _account(pairs: Sequence[Pair], questions: Questions | None, settings: RunSettings) -> Account:
    data = described(pairs, "pairs")
    if questions is None:
        return Account(data, "")
    judged_by = f"{len(questions.queries):,} queries were held out{APART[settings.apart]} and searched for"
    return Account(data, f"{judged_by} among {len(questions.passages):,} passages, answers included.")
