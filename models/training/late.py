"""Lets an encoder compare token by token: what of a layer's states is worth keeping, and which tokens are rare.

Nothing is trained. The numbers that are kept of a state are those along which the states of sample texts differ most.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from models.catalog import locate
from models.folder import check_folder, hash_folder
from models.late_head import BLEND, CONFIG, FOLDER, WEIGHTS
from models.training.backbone import prompted, save_prompts, within
from models.training.card import add_to_card
from models.training.errors import TrainingError
from models.training.lexicon import rarity
from models.training.machine import Machine
from models.training.pairs import read_texts
from models.training.run import Plan, Run
from models.training.settings import LateSettings, asked_prompts
from models.training.watch import Watch
from models.types import Blend, Blends, LateHead, ModelOptions

BATCH = 32
"""Texts in one pass."""

Texts = Mapping[str, Sequence[str]]
"""By their sources."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of it."""

    head: LateHead
    tokens: int
    """That it was fitted to."""
    kept: float
    """Share of the states' differences that the numbers kept account for."""

    def told(self) -> str:
        numbers = f"Layer {self.head.layer}, {self.head.width} numbers a token"
        return f"{numbers}, which hold {self.kept:.0%} of the differences between {self.tokens:,} tokens."


def late_file(texts: Path, output: Path, settings: LateSettings, watch: Watch) -> Fitted:
    """Copies an encoder, with what it needs to compare token by token."""
    machine = Machine.find(settings.device, settings.threads)
    folder = locate(settings.encoder, "encoder", ModelOptions())
    check_folder(settings.encoder, folder, "encoder")
    run = Run(output, Plan.of("train late", [texts], {settings.encoder: hash_folder(folder, {})}, settings))
    drawn = _drawn(read_texts(texts), settings)
    watch.say(f"Counting tokens in {sum(map(len, drawn.values())):,} texts of {len(drawn)} sources.")
    encoder = prompted(machine.open_frozen(folder), settings.encoder, folder, asked_prompts(settings))
    found = fit(encoder, drawn, settings, watch)

    def write(place: Path) -> Fitted:
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(FOLDER))
        save_prompts(encoder, place)
        write_late(found.head, place)
        add_to_card(place, output, run.plan, [found.told()])
        return found

    return run.finish(write)


def fit(encoder: SentenceTransformer, texts: Texts, settings: LateSettings, watch: Watch) -> Fitted:
    """The directions along which the sample's states differ most, and the rarity of each token in it."""
    layer = _layer(encoder, settings)
    mean, spread, tokens = _moments(encoder, layer, texts, settings, watch)
    values, directions = torch.linalg.eigh(spread - torch.outer(mean, mean))
    if settings.width > len(mean):
        raise TrainingError(f"--width is {settings.width}, and a state has {len(mean)} numbers.")
    kept = directions.flip(1)[:, : settings.width]
    share = float(values.flip(0)[: settings.width].sum() / values.sum())
    both = {"dense": settings.dense, "late": settings.weight}
    blends = Blends(Blend(rerank=0.0, **both), Blend(rerank=0.0, lexical=settings.lexical, **both))
    rare = rarities(encoder, [text for own in texts.values() for text in own])
    return Fitted(LateHead(layer, _single(mean), _single(kept), rare, blends), tokens, share)


def rarities(encoder: SentenceTransformer, texts: Sequence[str]) -> NDArray[np.float32]:
    """Of each token of the vocabulary, as BM25 counts it."""
    tokenizer = encoder.tokenizer
    having: Counter[int] = Counter()
    for text in texts:
        having.update(set(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))
    held = np.array([having[token] for token in range(len(tokenizer))], np.float64)
    return rarity(held, len(texts)).astype(np.float32)


def write_late(head: LateHead, path: Path) -> None:
    """As the service reads it, in half precision."""
    (path / FOLDER).mkdir()
    numbers = {name: getattr(head, name).astype(np.float16) for name in ("mean", "projection", "rarity")}
    save_file({name: np.ascontiguousarray(each) for name, each in numbers.items()}, path / FOLDER / WEIGHTS)
    (path / FOLDER / WEIGHTS).chmod(0o644)
    dense, hybrid = asdict(head.blends.dense), asdict(head.blends.hybrid)
    del dense["lexical"]
    for file, content in ((CONFIG, {"layer": head.layer}), (BLEND, {"dense": dense, "hybrid": hybrid})):
        (path / FOLDER / file).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _layer(encoder: SentenceTransformer, settings: LateSettings) -> int:
    """By default the last but one: the last one has the whole text in mind rather than its tokens."""
    body: Any = encoder.transformers_model
    layers: int = body.config.num_hidden_layers
    if settings.layer > layers:
        raise TrainingError(f"--layer is {settings.layer}, and the encoder has {layers} layers.")
    return settings.layer or max(layers - 1, 1)


def _drawn(texts: Texts, settings: LateSettings) -> Texts:
    draw = random.Random(settings.seed)
    return {source: draw.sample(own, min(len(own), settings.count)) for source, own in texts.items()}


@torch.inference_mode()
def _moments(
    encoder: SentenceTransformer, layer: int, texts: Texts, settings: LateSettings, watch: Watch
) -> tuple[Tensor, Tensor, int]:
    """The mean of all states, the mean of their squares, and how many they are."""
    every = sorted(
        (text for own in texts.values() for text in own[: settings.read]), key=lambda text: (len(text), text)
    )
    total, squares, tokens = torch.zeros(()), torch.zeros(()), 0
    for start in range(0, len(every), BATCH):
        for states in _states(encoder, layer, every[start : start + BATCH], settings.tokens):
            total, squares, tokens = total + states.sum(0), squares + states.T @ states, tokens + len(states)
        watch.advance("reading texts", min(start + BATCH, len(every)), len(every))
    return total / tokens, squares / tokens, tokens


def _states(encoder: SentenceTransformer, layer: int, texts: Sequence[str], tokens: int) -> Iterator[Tensor]:
    """Of each text its tokens' states, without those that frame it."""
    prompt = encoder.prompts.get("document") or ""
    taken = encoder.tokenizer(
        [prompt + text for text in texts], padding=True, truncation=True, max_length=within(tokens, encoder),
        return_special_tokens_mask=True, return_tensors="pt",
    ).to(encoder.device)  # fmt: skip
    words = taken["attention_mask"].bool() & ~taken.pop("special_tokens_mask").bool()
    body: Any = encoder.transformers_model
    states = body(**taken, output_hidden_states=True).hidden_states[layer]
    yield from (own[kept].double().cpu() for own, kept in zip(states, words, strict=True))


def _single(numbers: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = numbers.float().numpy()
    return found
