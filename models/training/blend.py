"""Fits how a reranker's logit and the first stages' scores add up."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor

from models.catalog import locate
from models.folder import Kind, check_folder, hash_folder
from models.training.backbone import prompted
from models.training.groups import Group, read_groups
from models.training.held_out import hold_out
from models.training.judge import Weights
from models.training.machine import Machine
from models.training.run import Plan, Run
from models.training.settings import BlendSettings, RerankerSettings, RoundingSettings, asked_prompts
from models.training.watch import Watch
from models.types import Blend, Blends, ModelOptions

BLEND_FILE = "blend.json"
START = (15.0, 4.0)
"""Where the search for the weights of cosine and BM25 share begins."""

PULL = 1e-4
"""How much it is drawn back there: nothing beside many groups, while few may leave a weight free to run off."""


def blend_file(groups: Path, output: Path, settings: BlendSettings, watch: Watch) -> Blends:
    """Copies a reranker, with the blend that suits another encoder."""
    machine = Machine.find(settings.device, settings.threads)
    folders = {kind: _find(name, kind) for kind, name in _named(settings)}
    models = {f"{kind} {name}": hash_folder(folders[kind], {}) for kind, name in _named(settings)}
    run = Run(output, Plan.of("train blend", [groups], models, settings))
    every = read_groups(groups)
    chosen = split(every, settings)[1] if settings.held_out else every
    watch.say(f"Fitting on {len(chosen):,} of {len(every):,} groups.")
    plain = SentenceTransformer(str(folders["encoder"]), device=machine.device)
    encoder = prompted(plain, settings.encoder, folders["encoder"], asked_prompts(settings))
    reranker = CrossEncoder(str(folders["reranker"]), device=machine.device)
    found = fit_blend(reranker, rescored(chosen, encoder, machine), machine)

    def write(folder: Path) -> Blends:
        shutil.copytree(folders["reranker"], folder)
        write_blends(found, folder)
        return found

    return run.finish(write)


def split(
    groups: Sequence[Group], settings: BlendSettings | RerankerSettings | RoundingSettings
) -> tuple[list[Group], list[Group]]:
    """Groups to train on, and groups of other queries to fit and judge with."""
    return hold_out(
        groups, lambda group: group.query, lambda group: group.answer, settings.held_out, settings.apart, settings.seed
    )


def rescored(groups: Sequence[Group], encoder: SentenceTransformer, machine: Machine) -> list[Group]:
    """The same groups with another encoder's cosines."""
    with machine.faster():
        return [replace(group, dense=_cosines(encoder, group)) for group in groups]


def fit_blend(reranker: CrossEncoder, groups: Sequence[Group], machine: Machine) -> Blends:
    """The weights beside this reranker's logit that explain best which passage answers."""
    sizes = [len(group.passages) for group in groups]
    with machine.faster():
        logits = torch.cat([_logits(reranker, group) for group in groups])
    dense = torch.tensor([score for group in groups for score in group.dense])
    lexical = torch.tensor([score for group in groups for score in group.lexical])
    (alone,) = _weights([logits, dense], sizes)
    cosine, share = _weights([logits, dense, lexical], sizes)
    return Blends(Blend(dense=alone), Blend(dense=cosine, lexical=share))


def write_blends(blends: Blends, folder: Path) -> None:
    """How a service adds the scores, with each kind of first stage."""
    (alone, _), (cosine, share) = beside(blends.dense), beside(blends.hybrid)
    content = {
        "dense": {"rerank": 1.0, "dense": round(alone, 4)},
        "hybrid": {"rerank": 1.0, "dense": round(cosine, 4), "lexical": round(share, 4)},
    }
    (folder / BLEND_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def beside(blend: Blend) -> Weights:
    """What cosine and BM25 share weigh beside one logit."""
    return blend.dense / blend.rerank, blend.lexical / blend.rerank


def list_loss(groups: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of the first among each group."""
    return torch.stack([-group.log_softmax(0)[0] for group in groups]).mean()


def _weights(scores: Sequence[Tensor], sizes: list[int]) -> list[float]:
    """The weight of each kind of score to one of the first."""
    # Logarithms, so that no weight can turn negative.
    start = torch.tensor([0.0, *(math.log(start) for start in START[: len(scores) - 1])], dtype=torch.float64)
    logs, known = start.clone().requires_grad_(), torch.stack(list(scores)).double()
    search = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        search.zero_grad()
        loss = list_loss(torch.split(logs.exp() @ known, sizes)) + PULL * (logs - start).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    search.step(step)  # type: ignore[no-untyped-call]  # and this
    first, *others = logs.exp().tolist()
    return [other / first for other in others]


def _logits(reranker: CrossEncoder, group: Group) -> Tensor:
    scores = reranker.predict([(group.query, text) for text in group.passages], show_progress_bar=False)
    return torch.as_tensor(scores)


def _cosines(encoder: SentenceTransformer, group: Group) -> list[float]:
    query = encoder.encode_query(group.query, normalize_embeddings=True)
    passages = encoder.encode_document(group.passages, normalize_embeddings=True, show_progress_bar=False)
    return [float(np.dot(passage, query)) for passage in passages]


def _named(settings: BlendSettings) -> tuple[tuple[Kind, str], ...]:
    return ("encoder", settings.encoder), ("reranker", settings.reranker)


def _find(name: str, kind: Kind) -> Path:
    folder = locate(name, kind, ModelOptions())
    check_folder(name, folder, kind)
    return folder
