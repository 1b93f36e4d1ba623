"""Models from folders, opened by sentence-transformers, and refused where a part of them is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers import CrossEncoder
from sentence_transformers.base import BaseModel
from transformers.utils import logging

from models.folder import module_folders, weight_files
from models.torch_device import find_device
from models.types import ModelError, ModelOptions

_LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    LookupError,
    TypeError,
    AttributeError,
    SafetensorError,
)
# Missing weights that are named; a layer has a dozen.
_NAMED = 3

_TRANSFORMERS_LOG: Any = logging

_M = TypeVar("_M", bound=BaseModel)


def load(kind: type[_M], name: str, path: Path, options: ModelOptions) -> _M:
    """The model in a folder that was checked; what keeps it from loading becomes a sentence."""
    device = find_device(options.device)
    with loading(name, path):
        # In float32 first, whatever the file has: only the transformer may go to bfloat16 afterwards.
        model: _M = kind(
            str(path),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
    _check_whole(name, model)
    return model


@contextmanager
def loading(name: str, path: Path) -> Iterator[None]:
    """Quietly; whatever keeps the libraries from it becomes a sentence."""
    try:
        with quiet():
            yield
    except _LOAD_ERRORS as error:
        raise ModelError(f"{name} can't be loaded from {path}: {_reason(error)}") from error


def _check_whole(name: str, model: BaseModel) -> None:
    """Refuses a body of which transformers has made up a part from random numbers; what was read it has marked so."""
    body: Any = model.transformers_model
    if body is None:
        return
    weights = body.base_model.named_parameters()
    missing = [key for key, weight in weights if not getattr(weight, "_is_hf_initialized", False)]
    if not isinstance(model, CrossEncoder):  # others pool by themselves, and are often saved without BERT's own way
        missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        named = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        raise ModelError(f"{name} was saved without some of its weights ({named}): fetch it again, or choose another.")


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run. Choose a model that transformers knows by itself."
    return f"{error} (fetch it again, or choose another model)"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice on standard error while a model loads."""
    verbosity, bars = _TRANSFORMERS_LOG.get_verbosity(), _TRANSFORMERS_LOG.is_progress_bar_enabled()
    _TRANSFORMERS_LOG.set_verbosity_error()
    _TRANSFORMERS_LOG.disable_progress_bar()
    try:
        yield
    finally:
        _TRANSFORMERS_LOG.set_verbosity(verbosity)
        if bars:
            _TRANSFORMERS_LOG.enable_progress_bar()


def check_head(name: str, path: Path, model: CrossEncoder) -> None:
    """Refuses a head that gives several scores, and one that transformers has just made up from random numbers."""
    if model.num_labels != 1:
        raise ModelError(f"{name} has {model.num_labels} labels: a reranker needs exactly one, the relevance.")
    body: Any = model.transformers_model
    if body is None or body.base_model is body:
        return
    heads = {key for key in body.state_dict() if not key.startswith(f"{body.base_model_prefix}.")}
    if missing := heads - stored_tensors(path):
        raise ModelError(f"{name} was saved without its scoring head ({', '.join(sorted(missing))}): train it first.")


def stored_tensors(path: Path) -> set[str]:
    """The names of the weights that were saved, in whichever of a model's modules."""
    keys: set[str] = set()
    for file in (file for folder in module_folders(path) for file in weight_files(folder)):
        with safe_open(file, framework="numpy") as tensors:
            keys.update(tensors.keys())
    return keys
