"""The embedded models as folders that every peer can open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from loadtest.machine import ROOT

WEIGHTS = ROOT / "models" / "weights"
ENCODER = WEIGHTS / "encoder"
RERANKER = WEIGHTS / "reranker"

OLDER_SETTINGS: dict[str, tuple[str, ...]] = {
    "Dense": ("in_features", "out_features", "bias", "activation_function"),
    "Pooling": (),
    "Normalize": (),
}
"""What each module's `config.json` had before version 5 of sentence-transformers, of what ours have."""


def decisive_reranker(folder: Path) -> Path:
    """Our reranker without its blend: it decides alone, as every peer's does."""
    shutil.copytree(RERANKER, folder, ignore=shutil.ignore_patterns("blend.json"), dirs_exist_ok=True)
    return folder


def older_encoder(folder: Path) -> Path:
    """Our encoder in the words of sentence-transformers 3, which infinity brings: the same modules and weights."""
    shutil.copytree(ENCODER, folder, dirs_exist_ok=True)
    modules = json.loads((ENCODER / "modules.json").read_text())
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        module["type"] = f"sentence_transformers.models.{kind}"
        if kind in OLDER_SETTINGS:
            _write_older(folder / module["path"] / "config.json", kind)
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": _longest(), "do_lower_case": False})
    return folder


def _write_older(file: Path, kind: str) -> None:
    if not file.exists():
        return
    given = json.loads(file.read_text())
    kept = {name: given[name] for name in OLDER_SETTINGS[kind]}
    _write(file, _pooling(given) if kind == "Pooling" else kept)


def _pooling(given: dict[str, Any]) -> dict[str, Any]:
    """The kind of pooling was a flag of its own."""
    flag = f"pooling_mode_{given['pooling_mode']}_tokens"
    return {"word_embedding_dimension": given["embedding_dimension"], "pooling_mode_cls_token": False, flag: True}


def _longest() -> int:
    return int(json.loads((ENCODER / "tokenizer_config.json").read_text())["model_max_length"])


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1))
