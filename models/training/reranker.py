"""Trains a cross-encoder as a correction to the first stage, and the weights that blend the two."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from models.catalog import locate
from models.folder import check_folder, hash_folder, read_blends
from models.torch_loading import loading
from models.training.backbone import hold_steady, limit, prompted, step_back, write_model
from models.training.bench import Bench
from models.training.blend import BLEND_FILE, START, beside, fit_blend, list_loss, scored, split, write_blends
from models.training.card import Account, Report
from models.training.errors import TrainingError
from models.training.groups import Group, read_groups
from models.training.held_out import APART, refuse_nothing
from models.training.judge import Metrics, RerankerJudge, Weights
from models.training.pairs import described, sample
from models.training.rounding import write_rounding
from models.training.settings import RerankerSettings, caps
from models.training.teacher import Teacher
from models.training.trainer import RerankerTrainer, on_one_device
from models.training.watch import Watch
from models.types import NO_PROMPTS, ModelError, ModelOptions

FITTING = 400
"""Groups of the training data that the blend is fitted on when none are held out."""


@dataclass(frozen=True, slots=True)
class Imitation:
    """How a teacher's order is made of what is known of a passage, and how much it counts beside the answers."""

    weights: tuple[float, float, float]
    """Of cosine, BM25 share, and the teacher's opinion."""
    share: float


class ResidualLoss(nn.Module):
    """Scores passages by logit plus weighted cosine plus weighted BM25 share. Both weights are learned, unless one
    begins at 0: its score has no part in this."""

    part: Tensor
    """Which of both scores have one."""

    def __init__(self, model: CrossEncoder, weights: Weights, width: int, imitation: Imitation | None = None) -> None:
        super().__init__()
        self.model = model
        self.width = width
        self.imitation = imitation
        self.first_stage = nn.Parameter(torch.tensor(weights))
        self.register_buffer("part", torch.tensor(weights) != 0, persistent=False)

    @property
    def weights(self) -> Weights:
        """Of cosine and BM25 share, as learned so far."""
        dense, lexical = self.first_stage.tolist()
        return dense, lexical

    def forward(
        self,
        inputs: tuple[list[str], list[list[str]]],
        labels: list[Tensor],
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """The mean over groups; a label holds cosines, BM25 shares and perhaps opinions, of the answer first."""
        queries, passages = inputs
        pairs = [(query, text) for query, texts in zip(queries, passages, strict=True) for text in texts]
        logits = self._logits(pairs, prompt, task)
        known = torch.cat([label.view(3 if self.imitation else 2, -1) for label in labels], dim=1).to(logits.device)
        sizes = [len(texts) for texts in passages]
        groups = torch.split(logits + (self.first_stage * self.part) @ known[:2], sizes)
        if self.imitation is None:
            return self.judge(groups)
        taught = torch.split(torch.tensor(self.imitation.weights, device=logits.device) @ known, sizes)
        return self.judge(groups) + self.imitation.share * imitation_loss(groups, taught)

    @abstractmethod
    def judge(self, groups: Sequence[Tensor]) -> Tensor:
        """How wrong scores are that ought to put the first of each group first."""

    def _logits(self, pairs: Sequence[tuple[str, str]], prompt: str | None, task: str | None) -> Tensor:
        # Neighbours in length share a forward pass: little of it is padding.
        order = sorted(range(len(pairs)), key=lambda at: sum(map(len, pairs[at])))
        parts = []
        for start in range(0, len(order), self.width):
            chosen = [pairs[at] for at in order[start : start + self.width]]
            features = self.model.preprocess(chosen, prompt=prompt, task=task)
            parts.append(self.model(batch_to_device(features, self.model.device))["scores"].view(-1))
        logits = torch.cat(parts).float()
        return logits[torch.tensor(order, device=logits.device).argsort()]


class ResidualListLoss(ResidualLoss):
    """Cross-entropy of the answer among its group."""

    def judge(self, groups: Sequence[Tensor]) -> Tensor:
        return list_loss(groups)


class ResidualBinaryLoss(ResidualLoss):
    """Each passage on its own: does it answer? The library's BinaryCrossEntropyLoss knows no first stage."""

    def __init__(self, model: CrossEncoder, weights: Weights, width: int, imitation: Imitation | None = None) -> None:
        super().__init__(model, weights, width, imitation)
        self.threshold = nn.Parameter(torch.tensor(weights[0] / 2))  # as if a cosine of a half were even

    def judge(self, groups: Sequence[Tensor]) -> Tensor:
        labels = torch.cat([torch.eye(1, len(group))[0] for group in groups])
        scores = torch.cat(list(groups)) - self.threshold
        return nn.functional.binary_cross_entropy_with_logits(scores, labels.to(scores.device))


def imitation_loss(groups: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
    """How far each group's shares of the probability are from the taught ones (Kullback-Leibler divergence)."""
    pairs = zip(groups, taught, strict=True)
    each = [nn.functional.kl_div(ours.log_softmax(0), theirs.softmax(0), reduction="sum") for ours, theirs in pairs]
    return torch.stack(each).mean()


LOSSES = {"listwise": ResidualListLoss, "binary": ResidualBinaryLoss}


def train_reranker(groups: Path, output: Path, settings: RerankerSettings, watch: Watch) -> Report:
    """Trains a cross-encoder on top of the base model and writes it with its blend and a card."""
    teacher = _find_teacher(settings)
    others = {f"teacher {settings.teacher}": hash_folder(teacher, {})} if teacher else {}
    bench = Bench.set_up("reranker", groups, output, settings, watch, others)
    rest, held_out = divide(read_groups(groups), settings)
    trained = _chosen(rest, settings)
    account = _account(trained, held_out, settings)
    watch.say(account.data)
    model = _open(bench)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    opinions = _opinions(teacher, trained, bench) if teacher else None
    loss = LOSSES[settings.loss](model, _start(bench), settings.width, _imitation(bench) if opinions else None)
    judge = RerankerJudge(held_out, lambda: loss.weights, bench.machine) if held_out else None
    before = bench.judge_base(_base_judge(held_out, model, bench) if held_out else None, model)
    fitted = bench.fit(_trainer(model, _dataset(trained, opinions), loss, judge, bench))
    to_fit_on = held_out or trained[:FITTING]

    def write(folder: Path) -> Metrics:
        step_back(model, start, settings.share)
        return _write(model, trained, to_fit_on, bench, folder)

    return bench.finish(write, account, before, fitted)


def divide(groups: Sequence[Group], settings: RerankerSettings) -> tuple[list[Group], list[Group]]:
    """Groups to train on, and groups to judge by, whose answers are not among the others' negatives either."""
    rest, held_out = split(groups, settings)
    refuse_nothing(rest)
    if settings.apart == "queries":
        return rest, held_out
    known = {group.answer for group in held_out}
    kept = [group for each in rest if len((group := each.without_negatives(known)).passages) > 1]
    if not kept:
        raise TrainingError("Of all groups the negatives are answers that are held out: mine more of them.")
    return kept, held_out


def _chosen(groups: Sequence[Group], settings: RerankerSettings) -> Sequence[Group]:
    """Those to train on: each source is drawn by itself, so that leaving one out changes no other."""
    if not settings.take:
        return groups
    takes = caps(settings.take).items()
    return [each for source, most in takes for each in sample(groups, {source: most}, settings.seed)[source]]


def _open(bench: Bench[RerankerSettings]) -> CrossEncoder:
    with loading(bench.base.name, bench.base.folder):
        model: CrossEncoder = CrossEncoder(
            str(bench.base.folder),
            num_labels=1,
            activation_fn=nn.Identity(),
            device=bench.machine.device,
            model_kwargs=bench.machine.attention,
        )
    model.max_seq_length = min(bench.settings.tokens, limit(model))
    hold_steady(model)
    return model


def _start(bench: Bench[RerankerSettings]) -> Weights:
    """The first stage's weights to begin with; that of the cosine as asked for, or as the base has it."""
    folder, settings = bench.base.folder, bench.settings
    dense, _ = beside(read_blends(folder).hybrid if (folder / BLEND_FILE).exists() else START)
    return dense if settings.dense is None else settings.dense, settings.lexical


def _base_judge(held_out: Sequence[Group], model: CrossEncoder, bench: Bench[RerankerSettings]) -> RerankerJudge:
    """Judges the base as what comes of it is judged: with the blend that suits it best."""
    return RerankerJudge(
        held_out, lambda: beside(fit_blend(scored(model, held_out, bench.machine)).hybrid), bench.machine
    )


def _trainer(
    model: CrossEncoder,
    dataset: Dataset,
    loss: ResidualLoss,
    judge: RerankerJudge | None,
    bench: Bench[RerankerSettings],
) -> RerankerTrainer:
    settings = bench.settings
    arguments = CrossEncoderTrainingArguments(
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        learning_rate_mapping={"first_stage|threshold": settings.weights_rate},
        warmup_steps=0.08,
        **bench.arguments(judge),
    )
    return RerankerTrainer(
        model=model, args=on_one_device(arguments), train_dataset=dataset, loss=loss, evaluator=judge
    )


def _find_teacher(settings: RerankerSettings) -> Path | None:
    if not settings.teacher:
        return None
    folder = locate(settings.teacher, "encoder", ModelOptions())
    check_folder(settings.teacher, folder, "encoder")
    return folder


def _opinions(folder: Path, groups: Sequence[Group], bench: Bench[RerankerSettings]) -> list[list[float]]:
    """What the teacher thinks of each passage; asked once, however often the run is interrupted."""
    settings = bench.settings
    encoder = prompted(bench.machine.open_frozen(folder), settings.teacher, folder, NO_PROMPTS)
    teacher = Teacher(encoder, settings.teacher_layer, settings.tokens, bench.watch)
    found: list[list[float]] = bench.run.once("opinions", lambda: teacher.opinions(groups))
    return found


def _imitation(bench: Bench[RerankerSettings]) -> Imitation:
    """The teacher corrects the first stage too, as that weighs at the start."""
    return Imitation((*_start(bench), bench.settings.teacher_weight), bench.settings.imitation)


def _dataset(groups: Sequence[Group], opinions: Sequence[Sequence[float]] | None) -> Dataset:
    taught = opinions or [()] * len(groups)
    rows = [
        {"query": group.query, "passages": group.passages, "label": [*group.dense, *group.lexical, *opinion]}
        for group, opinion in zip(groups, taught, strict=True)
    ]
    return Dataset.from_list(rows)


def _account(groups: Sequence[Group], held_out: Sequence[Group], settings: RerankerSettings) -> Account:
    data = described(groups, "groups")
    if not held_out:
        return Account(data, "")
    queries = f"{len({group.query for group in held_out}):,} queries with {len(held_out):,} groups"
    judged_by = f"{queries} were held out{APART[settings.apart]}; each group is put in order."
    return Account(data, f"{judged_by} The blend's weights were fitted on them too.")


def _write(
    model: CrossEncoder,
    met: Sequence[Group],
    to_fit_on: Sequence[Group],
    bench: Bench[RerankerSettings],
    folder: Path,
) -> Metrics:
    """Writes model and blend, and judges them as a service will use them."""
    write_model(model, folder, limit(model))
    stored: CrossEncoder = CrossEncoder(str(folder), device=bench.machine.device, model_kwargs=bench.machine.attention)
    stored.max_seq_length = bench.settings.tokens
    blends = fit_blend(scored(stored, to_fit_on, bench.machine))
    write_blends(blends, folder)
    if not bench.settings.held_out:
        return {}
    bench.watch.say("Judging the trained model.")
    _round(folder, met, to_fit_on, beside(blends.hybrid), bench)
    return RerankerJudge(to_fit_on, lambda: beside(blends.hybrid), bench.machine)(stored)


def _round(
    folder: Path, met: Sequence[Group], judged: Sequence[Group], weights: Weights, bench: Bench[RerankerSettings]
) -> None:
    try:
        write_rounding(folder, met, judged, weights, bench.settings.threads, bench.watch)
    except ModelError as error:
        bench.watch.say(f"What 8 bits cost was not measured: {error}")
