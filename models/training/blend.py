"""Fits how a reranker's logit and the first stages' scores add up."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor

from models.catalog import locate, open_encoder
from models.folder import Kind, check_folder, hash_folder
from models.late_head import nearness
from models.training.groups import Group, read_groups
from models.training.held_out import hold_out
from models.training.judge import Weights
from models.training.machine import Machine
from models.training.run import Plan, Run
from models.training.settings import BlendSettings, RerankerSettings, RoundingSettings, asked_prompts
from models.training.watch import Watch
from models.types import BiEncoder, Blend, Blends, ModelOptions, TokenQuery

BLEND_FILE = "blend.json"
START = Blend(dense=15.0, lexical=4.0, late=20.0)
"""Where the search for the weights begins."""

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
    seen = _seen(_opened(settings, machine), chosen, watch)
    reranker = CrossEncoder(str(folders["reranker"]), device=machine.device)
    found = fit_blend(reranker, *seen, machine)

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


def fit_blend(
    reranker: CrossEncoder, groups: Sequence[Group], late: Sequence[Sequence[float]] | None, machine: Machine
) -> Blends:
    """The weights beside this reranker's logit that explain best which passage answers; of tokens too, where it is
    known what comes of comparing them."""
    sizes = [len(group.passages) for group in groups]
    with machine.faster():
        logits = torch.cat([_logits(reranker, group) for group in groups])
    known = {"dense": _joined(group.dense for group in groups)}
    if late is not None:
        known["late"] = _joined(late)
    lexical = {"lexical": _joined(group.lexical for group in groups)}
    return Blends(_fitted(logits, known, sizes), _fitted(logits, known | lexical, sizes))


def write_blends(blends: Blends, folder: Path) -> None:
    """How a service adds the scores, with each kind of first stage."""
    both = {"dense": blends.dense, "hybrid": blends.hybrid}
    content = {
        kind: {name: round(weight, 4) for name, weight in asdict(blend).items() if weight}
        for kind, blend in both.items()
    }
    (folder / BLEND_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def beside(blend: Blend) -> Weights:
    """What cosine and BM25 share weigh beside one logit."""
    return blend.dense / blend.rerank, blend.lexical / blend.rerank


def list_loss(groups: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of the first among each group."""
    return torch.stack([-group.log_softmax(0)[0] for group in groups]).mean()


def _fitted(logits: Tensor, scores: Mapping[str, Tensor], sizes: list[int]) -> Blend:
    """The weight of each kind of score beside one logit."""
    # Logarithms, so that no weight can turn negative.
    start = torch.tensor([0.0, *(math.log(getattr(START, name)) for name in scores)], dtype=torch.float64)
    logs, known = start.clone().requires_grad_(), torch.stack([logits, *scores.values()]).double()
    search = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        search.zero_grad()
        loss = list_loss(torch.split(logs.exp() @ known, sizes)) + PULL * (logs - start).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    search.step(step)  # type: ignore[no-untyped-call]  # and this
    first, *others = logs.exp().tolist()
    return Blend(**{name: weight / first for name, weight in zip(scores, others, strict=True)})


def _joined(scores: Iterable[Sequence[float]]) -> Tensor:
    return torch.tensor([score for own in scores for score in own])


def _logits(reranker: CrossEncoder, group: Group) -> Tensor:
    scores = reranker.predict([(group.query, text) for text in group.passages], show_progress_bar=False)
    return torch.as_tensor(scores)


def _opened(settings: BlendSettings, machine: Machine) -> BiEncoder:
    """As a service has it."""
    prompts = {settings.encoder: asked_prompts(settings)}
    return open_encoder(
        settings.encoder, ModelOptions(machine.device, threads=settings.threads, runtime="torch", prompts=prompts)
    )


def _seen(encoder: BiEncoder, groups: Sequence[Group], watch: Watch) -> tuple[list[Group], list[list[float]] | None]:
    """The same groups with this encoder's cosines, and what comes of comparing token by token, if it does that."""
    again: list[Group] = []
    compared: list[list[float]] = []
    for done, group in enumerate(groups, 1):
        (asked,), texts = encoder.tokenize([group.query], "query"), encoder.tokenize(group.passages, "document")
        if encoder.late is None:
            (query,), passages = encoder.encode([asked]), encoder.encode(texts)
        else:
            (whole,), wholes = encoder.encode_whole([asked]), encoder.encode_whole(texts)
            query, passages = whole.vector, np.stack([each.vector for each in wholes])
            weighed = TokenQuery(whole.tokens, encoder.late.weights(asked.ids[encoder.inside(asked)]))
            compared.append(nearness(weighed, [each.tokens for each in wholes]).tolist())
        again.append(replace(group, dense=(passages @ query).tolist()))
        watch.advance("comparing", done, len(groups))
    return again, compared if encoder.late else None


def _named(settings: BlendSettings) -> tuple[tuple[Kind, str], ...]:
    return ("encoder", settings.encoder), ("reranker", settings.reranker)


def _find(name: str, kind: Kind) -> Path:
    folder = locate(name, kind, ModelOptions())
    check_folder(name, folder, kind)
    return folder
