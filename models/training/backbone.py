"""What both trainings do to a model: open it, hold part of it still, and write it down small."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn

from models.cards import known_as
from models.catalog import locate
from models.folder import SETTINGS_FILE, Kind, check_folder, hash_folder, named_prompts
from models.late_head import FOLDER
from models.torch_body import positions
from models.torch_runtime import completed, read_prompts
from models.training.settings import RunSettings
from models.types import NO_PROMPTS, ModelError, ModelOptions, Prompts

LONGEST = 512
"""Most tokens that a model reads that was trained through and through, however many its base could."""

STRAY_SETTINGS = frozenset(
    {"is_local", "local_files_only", "max_length", "pad_to_multiple_of", "pad_token_type_id", "stride"}
    | {"name_or_path", "padding_side", "truncation_side", "truncation_strategy"}
)
"""Traces of the training run that transformers leaves in tokenizer_config.json."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a training starts from."""

    name: str
    folder: Path
    fingerprint: str

    @classmethod
    def find(cls, settings: RunSettings, kind: Kind) -> Base:
        """The embedded model, a folder or a model of the hub; a reranker may start from an encoder too."""
        folder = locate(settings.base, kind, ModelOptions())
        try:
            check_folder(settings.base, folder, kind)
        except ModelError:
            if kind == "encoder":
                raise
            check_folder(settings.base, folder, "encoder")
        return cls(settings.base, folder, hash_folder(folder, {}))


def prompted(model: SentenceTransformer, name: str, folder: Path, asked: Prompts) -> SentenceTransformer:
    """The same with the prompts that it is served with, which are saved with whatever becomes of it."""
    card = known_as(name, folder)
    own = completed(read_prompts(model), card.prompts if card else NO_PROMPTS, named_prompts(folder))
    model.prompts = {str(role): asked.get(role, prompt) for role, prompt in own.items()}
    model.default_prompt_name = None
    return model


def save_prompts(model: SentenceTransformer, folder: Path) -> None:
    """Writes a model's prompts into a folder that its weights were copied to."""
    file = folder / SETTINGS_FILE
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    content["prompts"] = (content.get("prompts") or {}) | {role: text or "" for role, text in model.prompts.items()}
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def limit(model: SentenceTransformer | CrossEncoder) -> int:
    """How many tokens the trained model shall read."""
    return within(LONGEST, model)


def reach(model: SentenceTransformer) -> int:
    """How many tokens a model reads as it is."""
    return within(model.max_seq_length or LONGEST, model)


def within(tokens: int, model: SentenceTransformer | CrossEncoder) -> int:
    """So many tokens, or as many as a model has positions for."""
    body: Any = model.transformers_model
    return min([tokens, *positions(body)])


def hold_steady(model: SentenceTransformer | CrossEncoder) -> None:
    """Freezes the embedding layer and turns dropout off, which on a CPU costs half of the time."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings." not in name)


def step_back(model: nn.Module, before: Mapping[str, Tensor], share: float) -> None:
    """Goes only a share of the way from the old weights to the new: often better than either end."""
    after = model.state_dict()
    floating = [name for name, value in after.items() if value.is_floating_point()]
    model.load_state_dict(after | {name: torch.lerp(before[name], after[name], share) for name in floating})


def write_model(model: SentenceTransformer | CrossEncoder, output: Path, tokens: int) -> None:
    """Writes half-precision weights that load in single precision, and a tokenizer that cuts nothing by itself; of a
    text the model will read so many tokens."""
    model.max_seq_length = tokens
    model.to(torch.float16).save_pretrained(str(output), create_model_card=False)
    for path in output.rglob("*.safetensors"):
        path.chmod(0o644)
    _edit(output / "config.json", dtype="float32")
    _edit(output / "tokenizer.json", truncation=None, padding=None)
    _edit(output / "tokenizer_config.json", model_max_length=model.max_seq_length)


def carry_late(base: Path, output: Path) -> None:
    """Lets a trained encoder compare token by token as its base does: training moves states little."""
    if (base / FOLDER).is_dir():
        shutil.copytree(base / FOLDER, output / FOLDER)


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if key not in STRAY_SETTINGS}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
