"""What both trainings do to a model: hold part of it still, and write it down small."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn

LONGEST = 512
"""How many tokens the shipped models read."""

STRAY_SETTINGS = frozenset(
    {"is_local", "local_files_only", "max_length", "pad_to_multiple_of", "pad_token_type_id", "stride"}
    | {"name_or_path", "padding_side", "truncation_side", "truncation_strategy"}
)
"""Traces of the training run that transformers leaves in tokenizer_config.json."""


def hold_steady(model: SentenceTransformer | CrossEncoder) -> None:
    """Freezes the embedding layer and turns dropout off, which on a CPU costs half of the time."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings." not in name)


def refuse_to_overwrite(output: Path) -> None:
    """Stops a run before it starts, not after an hour, when its place is taken."""
    if output.exists():
        raise FileExistsError(f"{output} exists: name a new folder or remove it")


def write_model(model: SentenceTransformer | CrossEncoder, output: Path) -> None:
    """Writes half-precision weights that load in single precision, and a tokenizer that cuts nothing by itself."""
    model.to(torch.float16).save_pretrained(str(output), create_model_card=False)
    for path in output.rglob("*.safetensors"):
        path.chmod(0o644)
    _edit(output / "config.json", dtype="float32")
    _edit(output / "tokenizer.json", truncation=None, padding=None)
    _edit(output / "tokenizer_config.json", model_max_length=LONGEST)


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if key not in STRAY_SETTINGS}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
