"""Teaches an encoder to say the most in its first numbers: a small head behind it, fitted to vectors it has made."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn

from models.training.backbone import carry_late, prompted, reach, write_model
from models.training.bench import Bench
from models.training.card import Report
from models.training.encoder import prepare
from models.training.errors import TrainingError
from models.training.judge import EncoderJudge, Metrics
from models.training.pairs import Pair, passage_text, read_pairs
from models.training.settings import HeadSettings, asked_prompts, dimensions
from models.training.trainer import Fitted
from models.training.vectors import VectorFiles
from models.training.watch import Watch


@dataclass(frozen=True, slots=True)
class Examples:
    """Unit vectors of queries and of their answers, row by row, and the rows of each source."""

    queries: Tensor
    passages: Tensor
    rows: Mapping[str, Sequence[int]]


class Head(nn.Module):
    """Two dense layers that begin as a rotation: at full length they change no cosine until they are trained."""

    def __init__(self, vectors: Tensor, hidden: int, scale: float) -> None:
        super().__init__()
        length = vectors.shape[1]
        if hidden < 2 * length:
            raise TrainingError(f"--hidden must be {2 * length} or more, twice the length of a vector.")
        self.widen = Dense(length, hidden, activation_function=nn.GELU())
        self.narrow = Dense(hidden, length, bias=False, activation_function=nn.Identity())
        self._begin(_principal(vectors), scale)

    def forward(self, vectors: Tensor) -> Tensor:
        features = self.narrow(self.widen({"sentence_embedding": vectors}))
        output: Tensor = features["sentence_embedding"]
        return output

    @torch.no_grad()
    def _begin(self, rotation: Tensor, scale: float) -> None:
        # gelu(x) - gelu(-x) = x: with both signs of each number the two layers are linear to begin with.
        length = len(rotation)
        inner, outer = self.widen.linear, self.narrow.linear
        nn.init.normal_(inner.weight, std=scale / length**0.5)
        nn.init.zeros_(inner.bias)
        nn.init.zeros_(outer.weight)
        inner.weight[: 2 * length] = torch.cat([rotation, -rotation]) * scale
        outer.weight[:, : 2 * length] = torch.cat([torch.eye(length), -torch.eye(length)], dim=1) / scale


def train_head(pairs: Path, output: Path, settings: HeadSettings, watch: Watch) -> Report:
    """Writes the base model with a fitted head behind it, and a card."""
    bench = Bench.set_up("head", pairs, output, settings, watch)
    data = prepare(read_pairs(pairs), settings)
    watch.say(data.account.data)
    base = bench.base
    model = prompted(bench.machine.open_frozen(base.folder), base.name, base.folder, asked_prompts(settings))
    _refuse_a_second_head(model, base.name)
    dims = dimensions(settings.dims, model.get_embedding_dimension() or 0)
    read = reach(model)
    judge = EncoderJudge(data.questions, dims, read, bench.machine) if data.questions else None
    before = bench.judge_base(judge, model)
    model.max_seq_length = min(settings.tokens, read)
    examples = _examples(data.pairs, VectorFiles(model, bench.run.folder / "vectors", watch), settings.seed)
    head, fitted = fit_head(examples, dims, settings, watch)

    def write(folder: Path) -> Metrics:
        whole = SentenceTransformer(str(base.folder), device=bench.machine.device)
        modules = [*whole, head.widen, head.narrow, Normalize()]
        prompts = {role: prompt or "" for role, prompt in model.prompts.items()}
        write_model(SentenceTransformer(modules=modules, prompts=prompts), folder, read)
        carry_late(base.folder, folder)
        return judge(bench.machine.open_frozen(folder)) if judge else {}

    return bench.finish(write, data.account, before, fitted)


def fit_head(examples: Examples, dims: Sequence[int], settings: HeadSettings, watch: Watch) -> tuple[Head, Fitted]:
    """The head under which every prefix ranks a batch as the base model's whole vectors do."""
    began, curve = monotonic(), []
    head = Head(torch.cat([examples.queries, examples.passages]), settings.hidden, settings.scale)
    search = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=0.0)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(search, settings.steps)
    for step, rows in enumerate(_batches(examples.rows, settings), 1):
        loss = distillation(head, examples.queries[rows], examples.passages[rows], dims, settings.sharpness)
        search.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        search.step()
        pace.step()
        curve.append({"step": float(step), "loss": loss.item()})
        watch.advance("fitting the head", step, settings.steps)
    return head, Fitted(curve, monotonic() - began, settings.steps, None)


def distillation(head: Head, queries: Tensor, passages: Tensor, dims: Sequence[int], sharpness: float) -> Tensor:
    """How far the prefixes' rankings of passages, by queries and by passages, are from those of whole vectors."""
    ours_queries, ours_passages = head(queries), head(passages)
    loss = torch.zeros(())
    for length in dims:
        asked, found = _prefix(ours_queries, length), _prefix(ours_passages, length)
        loss = loss + _divergence(asked @ found.T, queries @ passages.T, sharpness)
        loss = loss + _divergence(found @ found.T, passages @ passages.T, sharpness)
    return loss / len(dims)


def _divergence(ours: Tensor, theirs: Tensor, sharpness: float) -> Tensor:
    student, teacher = (ours * sharpness).log_softmax(1), (theirs * sharpness).log_softmax(1)
    return nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def _prefix(vectors: Tensor, length: int) -> Tensor:
    return nn.functional.normalize(vectors[:, :length], dim=1)


def _principal(vectors: Tensor) -> Tensor:
    """The directions along which vectors differ, from zero, the most; the first rows carry the most."""
    directions: Tensor = torch.linalg.eigh(vectors.T @ vectors).eigenvectors
    return directions.T.flip(0).contiguous()


def _batches(rows: Mapping[str, Sequence[int]], settings: HeadSettings) -> Iterator[list[int]]:
    """Each of one source, as often as the source is large, so that its passages are hard to tell apart."""
    draw, sources = np.random.default_rng(settings.seed), sorted(rows)
    sizes = np.array([len(rows[source]) for source in sources])
    for _ in range(settings.steps):
        found = rows[sources[draw.choice(len(sources), p=sizes / sizes.sum())]]
        yield draw.choice(found, min(settings.batch, len(found)), replace=False).tolist()


def _examples(pairs: Mapping[str, Sequence[Pair]], vectors: VectorFiles, seed: int) -> Examples:
    draw = random.Random(seed)
    every = [pair for found in pairs.values() for pair in found]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, pair in enumerate(every):
        rows[pair.source].append(row)
    queries = vectors.embed("queries", [pair.query for pair in every], "query")
    passages = vectors.embed("passages", [passage_text(pair, draw) for pair in every], "document")
    return Examples(torch.from_numpy(queries), torch.from_numpy(passages), rows)


def _refuse_a_second_head(model: SentenceTransformer, name: str) -> None:
    if any(isinstance(module, Dense) for module in model):
        raise TrainingError(f"{name} has a head already. Train on with `winnow train encoder`: its head learns too.")
    if not isinstance(model[-1], Normalize):
        raise TrainingError(f"{name} does not end in Normalize, which a head needs before it: choose another --base.")
