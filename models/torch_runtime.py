"""Encoders and rerankers in torch, opened by sentence-transformers and fed with tokens cut by our own hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils import logging

from models.folder import check_folder, hash_folder, read_blends
from models.tokens import TOKENISATION, TextTokenizer
from models.types import ModelError, ModelOptions, Role, Scores, Tokens, Vectors

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
_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")
# Tokenizers without a limit of their own say 10**30.
_LONGEST = 10**6

_TRANSFORMERS_LOG: Any = logging

_Model = SentenceTransformer | CrossEncoder
_M = TypeVar("_M", SentenceTransformer, CrossEncoder)


class TorchEncoder:
    """A SentenceTransformer: the same vectors as its `encode_query` and `encode_document`, always of unit length."""

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_folder(name, path, "encoder")
        model = _load(SentenceTransformer, name, path, options)
        self._prompts = _prompts(model)
        _check_pooling(name, model, self._prompts)
        self.name = name
        self.dimensions = _dimensions(name, model)
        self._body = _Body(name, model, options)
        self.device = self._body.device
        self.capacity = self._body.text.text_room - self._body.text.count(self._prompts["document"])
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self._body.text.clone()

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        prompt = self._prompts[role]
        return self._body.text.texts([prompt + text for text in texts])

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """One forward pass over the whole batch, however large it is."""
        if not batch:
            return np.zeros((0, self.dimensions), np.float32)
        with torch.inference_mode():
            raw = self._body.run(batch)["sentence_embedding"][:, : self.dimensions]
            unit = raw / raw.norm(dim=1, keepdim=True)
        return _finite(self.name, unit)

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limit": self._body.limit,
            "prompts": self._prompts,
            "dimensions": self.dimensions,
            "normalised": True,
        }


class TorchReranker:
    """A CrossEncoder with one label: the same scores as its `predict`."""

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_folder(name, path, "reranker")
        self.blends = read_blends(path)
        model = _load(CrossEncoder, name, path, options)
        _check_head(name, path, model)
        self.name = name
        self._prompt = model.prompts.get(model.default_prompt_name or "") or ""
        self._activation: Callable[[Tensor], Tensor] = model.activation_fn
        self._body = _Body(name, model, options)
        self.device = self._body.device
        self.capacity = self._body.text.pair_room - self._body.text.count(self._prompt)
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self._body.text.clone()

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return self._body.text.pairs(self._prompt + query, texts)

    def score(self, batch: Sequence[Tokens]) -> Scores:
        """One forward pass over the whole batch, however large it is."""
        if not batch:
            return np.zeros(0, np.float32)
        with torch.inference_mode():
            scores = self._activation(self._body.run(batch)["scores"])
        return _finite(self.name, scores.reshape(len(batch)))

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limit": self._body.limit,
            "prompt": self._prompt,
            "activation": repr(self._activation),
            "blends": asdict(self.blends),
        }


class _Body:
    """What both kinds share: a transformer in the chosen precision, modules after it in float32, and a tokenizer."""

    def __init__(self, name: str, model: _Model, options: ModelOptions) -> None:
        self._modules: list[Any] = list(model.eval().children())
        transformer = _checked_transformer(name, self._modules[0])
        self._device = model.device
        self.device = str(model.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        if _wants_bfloat16(options, self._device):
            _to_bfloat16(transformer.model)
        tokenizer: Any = transformer.tokenizer
        self.limit = _limit(name, transformer)
        self.text = TextTokenizer(tokenizer.backend_tokenizer, self.limit)
        self._padding = tokenizer.pad_token_id or 0
        self._takes_types = "token_type_ids" in tokenizer.model_input_names

    def run(self, batch: Sequence[Tokens]) -> dict[str, Tensor]:
        """All modules, one after the other."""
        features: dict[str, Any] = self._inputs(batch)
        for module in self._modules:
            features = _in_float32(module(features))
        return features

    def _inputs(self, batch: Sequence[Tokens]) -> dict[str, Tensor]:
        # Padded at the end, so that a text's positions don't depend on its neighbours.
        shape = len(batch), max(len(tokens) for tokens in batch)
        ids, types, mask = np.full(shape, self._padding), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens.ids
            types[row, : len(tokens)] = tokens.types
            mask[row, : len(tokens)] = 1
        arrays = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if self._takes_types else {})
        return {key: torch.from_numpy(array).to(self._device) for key, array in arrays.items()}


def _load(kind: type[_M], name: str, path: Path, options: ModelOptions) -> _M:
    device = find_device(options.device)
    try:
        with _quiet():
            # In float32 first, whatever the file has: only the transformer may go to bfloat16 afterwards.
            model: _M = kind(
                str(path),
                device=str(device),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
            return model
    except _LOAD_ERRORS as error:
        raise ModelError(f"{name} can't be loaded from {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run. Choose a model that transformers knows by itself."
    return f"{error} (fetch it again, or choose another model)"


@contextmanager
def _quiet() -> Iterator[None]:
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


def find_device(wanted: str) -> torch.device:
    """The device of that name; with `auto` the best there is."""
    if wanted == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"Device {wanted!r} can't be used here: choose `auto` or `cpu`. ({error})") from error
    return device


def _wants_bfloat16(options: ModelOptions, device: torch.device) -> bool:
    return has_bfloat16(device) if options.precision == "auto" else options.precision == "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16 by itself; emulated it is slower than single precision."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Newer than the oldest torch we take; without it we can't know and stay exact.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(capabilities.get(one) for one in _NATIVE_BFLOAT16)


def _to_bfloat16(model: Any) -> None:
    # Converted weights beat autocast: one query of MiniLM-L6 on one core 3.4 ms against 4.5, 16 texts of 170 tokens
    # 240 ms against 280; float32 5.9 and 670.
    model.base_model.to(torch.bfloat16)
    if model.base_model is not model:
        for head in model.children():
            if head is not model.base_model:
                head.register_forward_pre_hook(_widen)


def _widen(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs)


def _in_float32(features: dict[str, Any]) -> dict[str, Any]:
    return {key: value.float() if _is_narrow(value) else value for key, value in features.items()}


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _finite(name: str, output: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    numbers: np.ndarray[Any, np.dtype[np.float32]] = output.float().cpu().numpy()
    if not np.isfinite(numbers).all():
        raise ModelError(f"{name} gave numbers that are not finite: its weights are damaged, or try float32 precision.")
    return numbers


def _prompts(model: SentenceTransformer) -> dict[Role, str]:
    """What encode_query and encode_document put in front of a text."""
    default = model.prompts.get(model.default_prompt_name or "") or ""
    documents = [model.prompts[key] for key in ("document", "passage", "corpus") if key in model.prompts]
    return {"query": model.prompts.get("query", default) or "", "document": [*documents, default][0] or ""}


def _dimensions(name: str, model: SentenceTransformer) -> int:
    dimensions = model.get_embedding_dimension()
    if not dimensions:
        raise ModelError(f"{name} does not say how long its vectors are: choose a model with a pooling module.")
    return int(dimensions)


def _check_pooling(name: str, model: SentenceTransformer, prompts: dict[Role, str]) -> None:
    poolings = [module for module in model.children() if isinstance(module, Pooling)]
    if any(prompts.values()) and not all(pooling.include_prompt for pooling in poolings):
        raise ModelError(f"{name} leaves its prompts out of pooling, which is not supported: choose another encoder.")


def _check_head(name: str, path: Path, model: CrossEncoder) -> None:
    """Refuses a head that gives several scores, and one that transformers has just made up from random numbers."""
    if model.num_labels != 1:
        raise ModelError(f"{name} has {model.num_labels} labels: a reranker needs exactly one, the relevance.")
    body: Any = model.transformers_model
    if body is None or body.base_model is body:
        return
    heads = {key for key in body.state_dict() if not key.startswith(f"{body.base_model_prefix}.")}
    if missing := heads - _stored(path):
        raise ModelError(f"{name} was saved without its scoring head ({', '.join(sorted(missing))}): train it first.")


def _stored(path: Path) -> set[str]:
    keys: set[str] = set()
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            keys.update(tensors.keys())
    return keys


def _checked_transformer(name: str, module: Any) -> Any:
    """Refuses what sentence-transformers would tokenise otherwise than we do."""
    if not isinstance(module, Transformer) or getattr(module.tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{name} does not begin with a transformer and its fast tokenizer: choose a model that does.")
    special = [module.query_length, module.document_length, module.query_expansion, module.processing_kwargs]
    if "text" not in module.modality_config or "message" in module.modality_config or any(special):
        raise ModelError(f"{name} reads chat messages or texts of fixed length, not plain text: choose another model.")
    return module


def _limit(name: str, transformer: Any) -> int:
    limit = min([transformer.max_seq_length or _LONGEST, *positions(transformer.model)])
    if limit >= _LONGEST:
        raise ModelError(f"{name} sets no limit to its input: write max_seq_length in sentence_bert_config.json.")
    return int(limit)


def positions(model: Any) -> Iterator[int]:
    """What limits the length of a transformer's input, as far as it says so."""
    yield from (size for size in [getattr(model.config, "max_position_embeddings", None)] if size and size > 0)
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            # RoBERTa's first positions are never used: it counts from behind the padding token's number.
            yield table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
