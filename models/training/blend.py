"""Fits how a reranker's logit and the first stages' scores add up."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor

from models.catalog import locate, open_encoder
from models.folder import PRICE_FILE, Kind, check_folder, hash_folder, read_blends
from models.late_head import nearness
from models.torch_loading import loading
from models.training.card import add_to_card, table
from models.training.groups import Group, read_groups
from models.training.held_out import hold_out
from models.training.judge import DEPTH, Weights, gains
from models.training.machine import Machine
from models.training.run import Plan, Run
from models.training.settings import BlendSettings, RerankerSettings, RoundingSettings, asked_prompts
from models.training.watch import Watch
from models.types import BiEncoder, Blend, Blends, ModelOptions, TokenQuery

BLEND_FILE = "blend.json"
START = Blend(dense=15.0, lexical=4.0)
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
    encoder = _opened(settings, machine)
    again, late = _seen(encoder, chosen, watch)
    with loading(settings.reranker, folders["reranker"]):
        reranker = CrossEncoder(str(folders["reranker"]), device=machine.device)
    known = scored(reranker, again, machine, late)
    found = fit_blend(known) if encoder.late is None else fit_beside(known, encoder.late.blends)

    def write(folder: Path) -> Blends:
        shutil.copytree(folders["reranker"], folder, ignore=shutil.ignore_patterns(PRICE_FILE))
        told = _account(known, read_blends(folder), found)
        write_blends(found, folder)
        add_to_card(folder, output, run.plan, told)
        return found

    return run.finish(write)


def split(
    groups: Sequence[Group], settings: BlendSettings | RerankerSettings | RoundingSettings
) -> tuple[list[Group], list[Group]]:
    """Groups to train on, and groups of other queries to fit and judge with."""
    return hold_out(
        groups, lambda group: group.query, lambda group: group.answer, settings.held_out, settings.apart, settings.seed
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """All passages of some groups by each kind of score, one group behind the other."""

    logits: Tensor
    dense: Tensor
    lexical: Tensor
    late: Tensor
    sizes: list[int]

    def by(self, blend: Blend) -> Tensor:
        return (
            blend.rerank * self.logits
            + blend.dense * self.dense
            + blend.lexical * self.lexical
            + blend.late * self.late
        )

    def gain(self, blend: Blend) -> float:
        """nDCG of that order. The first passage of each group answers; among equals it counts as the last."""
        own = torch.split(self.by(blend), self.sizes)
        return float(gains([1 + int((scores[1:] >= scores[0]).sum()) for scores in own]).mean())


def scored(
    reranker: CrossEncoder, groups: Sequence[Group], machine: Machine, late: Sequence[Sequence[float]] = ()
) -> Scored:
    """Without what comes of comparing tokens, that is 0."""
    with machine.faster():
        logits = torch.cat([_logits(reranker, group) for group in groups])
    return Scored(
        logits,
        _joined(group.dense for group in groups),
        _joined(group.lexical for group in groups),
        _joined(late) if late else torch.zeros(len(logits)),
        [len(group.passages) for group in groups],
    )


def fit_blend(known: Scored) -> Blends:
    """The weights beside a reranker's logit that explain best which passage answers."""
    (alone,) = _weights(known, [known.dense], [START.dense])
    cosine, share = _weights(known, [known.dense, known.lexical], [START.dense, START.lexical])
    return Blends(Blend(dense=alone), Blend(dense=cosine, lexical=share))


def fit_beside(known: Scored, own: Blends) -> Blends:
    """How much an encoder's own order by tokens weighs beside this reranker's logit.

    What makes that order keeps its weights among each other: groups can't tell them, since their negatives were chosen
    for high cosines and BM25 scores, which therefore look worse there than among the candidates of a search.
    """

    def fitted(blend: Blend) -> Blend:
        (weight,) = _weights(known, [known.by(replace(blend, rerank=0.0))], [1.0])
        return Blend(dense=weight * blend.dense, lexical=weight * blend.lexical, late=weight * blend.late)

    return Blends(fitted(own.dense), fitted(own.hybrid))


def write_blends(blends: Blends, folder: Path) -> None:
    """How a service adds the scores, with each kind of first stage. Those that the kind has are named, be it with 0."""
    both = {"dense": (blends.dense, {"lexical", "late"}), "hybrid": (blends.hybrid, {"late"})}
    content = {
        kind: {name: round(weight, 4) for name, weight in asdict(blend).items() if weight or name not in optional}
        for kind, (blend, optional) in both.items()
    }
    (folder / BLEND_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def beside(blend: Blend) -> Weights:
    """What cosine and BM25 share weigh beside one logit."""
    return blend.dense / blend.rerank, blend.lexical / blend.rerank


def list_loss(groups: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of the first among each group."""
    return torch.stack([-group.log_softmax(0)[0] for group in groups]).mean()


def _account(known: Scored, before: Blends, after: Blends) -> Iterator[str]:
    """For the card: each weight beside one logit, and what the order is worth, before and after."""
    yield f"Fitted on {len(known.sizes):,} groups, and judged by them as well."
    yield ""
    rows = []
    for stage, old, new in (("dense", before.dense, after.dense), ("hybrid", before.hybrid, after.hybrid)):
        for name, weight in asdict(new).items():
            rows.append((f"{stage}, {name}", f"{getattr(old, name):.2f}", f"{weight:.2f}"))
        rows.append((f"{stage}, nDCG@{DEPTH}", f"{known.gain(old):.4f}", f"{known.gain(new):.4f}"))
    yield from table(("first stage", "before", "after"), rows)


def _weights(known: Scored, scores: Sequence[Tensor], begin: Sequence[float]) -> list[float]:
    """The weight of each kind of score beside one logit; where the search for it begins it is drawn to."""
    # Logarithms, so that no weight can turn negative.
    start = torch.tensor([0.0, *map(math.log, begin)], dtype=torch.float64)
    logs, parts = start.clone().requires_grad_(), torch.stack([known.logits, *scores]).double()
    search = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        search.zero_grad()
        loss = list_loss(torch.split(logs.exp() @ parts, known.sizes)) + PULL * (logs - start).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    search.step(step)  # type: ignore[no-untyped-call]  # and this
    first, *others = logs.exp().tolist()
    return [other / first for other in others]


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


def _seen(encoder: BiEncoder, groups: Sequence[Group], watch: Watch) -> tuple[list[Group], list[list[float]]]:
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
    return again, compared


def _named(settings: BlendSettings) -> tuple[tuple[Kind, str], ...]:
    return ("encoder", settings.encoder), ("reranker", settings.reranker)


def _find(name: str, kind: Kind) -> Path:
    folder = locate(name, kind, ModelOptions())
    check_folder(name, folder, kind)
    return folder
