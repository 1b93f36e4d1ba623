"""Encoders and rerankers in torch, opened by sentence-transformers and fed with tokens cut by our own hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base import BaseModel
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils import logging

from models.batch import check_finite, padded
from models.folder import check_folder, hash_folder, module_folders, named_prompts, read_blends, read_unit, wants_end
from models.tokens import TOKENISATION, TextTokenizer
from models.types import NO_PROMPTS, Ids, ModelError, ModelOptions, OutOfMemory, Prompts, Role, Scores, Tokens, Vectors

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
# Missing weights that are named; a layer has a dozen.
_NAMED = 3

_TRANSFORMERS_LOG: Any = logging

_M = TypeVar("_M", bound=BaseModel)

Run = Callable[[Sequence[Tokens]], Mapping[str, Tensor]]
"""A forward pass: of what a model says, a row for each text."""

_PROMPT_NAMES: Mapping[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


class TorchEncoder:
    """A SentenceTransformer: the same vectors as its `encode_query` and `encode_document`, always of unit length."""

    runtime = "torch"

    def __init__(self, name: str, path: Path, options: ModelOptions, prompts: Prompts = NO_PROMPTS) -> None:
        """With what its authors put in front of texts, for a folder that says nothing of it; the options come first."""
        check_folder(name, path, "encoder")
        model = load(SentenceTransformer, name, path, options)
        own = completed(read_prompts(model), prompts, named_prompts(path))
        self.prompts: Prompts = {**own, **options.prompts.get(name, {})}
        _check_pooling(name, model, self.prompts)
        self.name = name
        self.dimensions = _dimensions(name, model)
        self.body = Body(name, model, options)
        self.run: Run = self.body.run
        self.text = self.body.plain_text()
        if wants_end(path) and not self.text.ends:
            _check_last(name, model)
        self.device = self.body.device
        self.capacity = self.text.text_room - self.text.count(self.prompts["document"])
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.clone()

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        prompt = self.prompts[role]
        return self.text.texts([prompt + text for text in texts])

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """One forward pass over the whole batch, however large it is."""
        if not batch:
            return np.zeros((0, self.dimensions), np.float32)
        with torch.inference_mode():
            raw = self.run(batch)["sentence_embedding"][:, : self.dimensions]
            unit = raw / raw.norm(dim=1, keepdim=True)
        return finite(self.name, unit)

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limit": self.text.limit,
            "prompts": self.prompts,
            "dimensions": self.dimensions,
            "normalised": True,
        }


class TorchReranker:
    """A CrossEncoder with one label: the same scores as its `predict`."""

    runtime = "torch"

    def __init__(self, name: str, path: Path, options: ModelOptions) -> None:
        check_folder(name, path, "reranker")
        self.blends, self.unit = read_blends(path), read_unit(path)
        model = load(CrossEncoder, name, path, options)
        _check_head(name, path, model)
        self.name = name
        self.prompts: Prompts = {"query": model.prompts.get(model.default_prompt_name or "") or "", "document": ""}
        self.activation: Callable[[Tensor], Tensor] = model.activation_fn
        self.body = Body(name, model, options)
        self.run: Run = self.body.run
        self.text = self.body.plain_text()
        self.device = self.body.device
        self.capacity = self.text.pair_room - self.text.count(self.prompts["query"])
        self.tokenisation = self.text.mark()
        self.fingerprint = hash_folder(path, self._facts())

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.clone()

    def read(self, texts: Sequence[str]) -> list[Ids]:
        return self.text.contents(texts)

    def pair(self, query: str, texts: Sequence[Ids]) -> list[Tokens]:
        return self.text.pairs(self.prompts["query"] + query, texts)

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return self.pair(query, self.read(texts))

    def score(self, batch: Sequence[Tokens]) -> Scores:
        """One forward pass over the whole batch, however large it is."""
        if not batch:
            return np.zeros(0, np.float32)
        with torch.inference_mode():
            scores = self.activation(self.run(batch)["scores"])
        return finite(self.name, scores.reshape(len(batch)))

    def _facts(self) -> dict[str, Any]:
        return {
            "tokenisation": TOKENISATION,
            "limit": self.text.limit,
            "prompt": self.prompts["query"],
            "activation": repr(self.activation),
            "blends": asdict(self.blends),
        }


class Body:
    """What all kinds share: a transformer in the chosen precision, modules after it in float32, and a tokenizer."""

    def __init__(
        self, name: str, model: BaseModel, options: ModelOptions, modules: Sequence[Any] | None = None
    ) -> None:
        """Of all modules of a model, or of those that one side of it takes."""
        self._name = name
        self.modules: list[Any] = list(model.eval().children() if modules is None else modules)
        self.transformer = _checked_transformer(name, self.modules[0])
        self._device = model.device
        self.device = str(model.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        if wants_bfloat16(options, self._device):
            to_bfloat16(self.transformer.model)
        self.tokenizer: Any = self.transformer.tokenizer
        self.padding: int = self.tokenizer.pad_token_id or 0
        self.takes_types = "token_type_ids" in self.tokenizer.model_input_names

    def plain_text(self) -> TextTokenizer:
        """For a model to which all texts are alike."""
        module = self.transformer
        if any([module.query_length, module.document_length, module.query_expansion]):
            raise ModelError(f"{self._name} gives queries another length than documents: choose another model.")
        return self.text(None)

    def text(self, longest: int | None) -> TextTokenizer:
        """Texts of so many tokens at most, or of as many as the model says that it reads."""
        return TextTokenizer(self.tokenizer.backend_tokenizer, _limit(self._name, self.transformer, longest))

    def run(self, batch: Sequence[Tokens]) -> dict[str, Tensor]:
        """All modules, one after the other."""
        return self.forward(self.inputs(batch), None)

    def forward(self, features: dict[str, Any], task: Role | None) -> dict[str, Any]:
        """The same for inputs that are made; some modules treat queries and documents differently."""
        with _told_when_full(self._name, *_size(features)):
            for module in self.modules:
                told = {"task": task} if task and "task" in module.forward_kwargs else {}
                features = _in_float32(module(features, **told))
        return features

    def inputs(self, batch: Sequence[Tokens]) -> dict[str, Tensor]:
        arrays = padded(batch, self.padding, with_types=self.takes_types)
        return {key: torch.from_numpy(array).to(self._device) for key, array in arrays.items()}


def _size(features: Mapping[str, Any]) -> tuple[int, int]:
    """How many texts they are, and how long the longest is; of texts that are packed the one row says neither."""
    if "cu_seq_lens_q" in features:
        return len(features["cu_seq_lens_q"]) - 1, features["max_length_q"]
    texts, longest = features["input_ids"].shape
    return texts, longest


@contextmanager
def _told_when_full(name: str, texts: int, longest: int) -> Iterator[None]:
    """Let a device without room for a batch be known as that; what the attempt had taken is given back."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"The device has no memory for {texts} texts of {longest} tokens in {name}: let WINNOW_BATCH_TOKENS or the "
            "chunks be smaller, or free some of it."
        ) from error


def load(kind: type[_M], name: str, path: Path, options: ModelOptions) -> _M:
    """The model in a folder that was checked; what keeps it from loading becomes a sentence."""
    device = find_device(options.device)
    try:
        with quiet():
            # In float32 first, whatever the file has: only the transformer may go to bfloat16 afterwards.
            model: _M = kind(
                str(path),
                device=str(device),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
    except _LOAD_ERRORS as error:
        raise ModelError(f"{name} can't be loaded from {path}: {_reason(error)}") from error
    _check_whole(name, model)
    return model


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


def wants_bfloat16(options: ModelOptions, device: torch.device) -> bool:
    """Whether it is asked for, or goes without saying."""
    return has_bfloat16(device) if options.precision == "auto" else options.precision == "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16 by itself; emulated it is slower than single precision."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Newer than the oldest torch we take; without it we can't know and stay exact.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(capabilities.get(one) for one in _NATIVE_BFLOAT16)


def to_bfloat16(model: Any) -> None:
    """All of a transformer but what makes scores of its output."""
    # Converted weights beat autocast: one query of MiniLM-L6 on one core 3.4 ms against 4.5, 16 texts of 170 tokens
    # 240 ms against 280; float32 5.9 and 670.
    if model.get_output_embeddings() is not None:  # a head of words shares its weights with the body, and its type
        model.to(torch.bfloat16)
        return
    body = model.base_model
    heads = [] if body is model else [child for child in model.children() if child is not body]
    pooler = deepcopy(getattr(body, "pooler", None)) if heads else None  # a head's first half, but inside of the body
    body.to(torch.bfloat16)
    if pooler is not None:
        body.pooler = pooler
        heads.append(pooler)
    for head in heads:
        head.register_forward_pre_hook(_widen)


def _widen(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs)


def _in_float32(features: dict[str, Any]) -> dict[str, Any]:
    return {key: value.float() if _is_narrow(value) else value for key, value in features.items()}


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def finite(name: str, output: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a model gave, unless it is not made of numbers."""
    numbers: np.ndarray[Any, np.dtype[np.float32]] = output.float().cpu().numpy()
    check_finite(name, numbers)
    return numbers


def read_prompts(model: BaseModel) -> Prompts:
    """What encode_query and encode_document put in front of a text."""
    default = model.prompts.get(model.default_prompt_name or "") or ""
    return {role: _first(model.prompts, names, default) for role, names in _PROMPT_NAMES.items()}


def _first(prompts: Mapping[str, str | None], names: Sequence[str], default: str) -> str:
    return next((prompts[name] for name in names if name in prompts), default) or ""


def completed(own: Prompts, known: Prompts, named: Set[str]) -> Prompts:
    """A model's own prompts, and where it was saved without one that which its authors make known elsewhere."""
    silent = {role for role, names in _PROMPT_NAMES.items() if named.isdisjoint(names) and not own[role]}
    return {role: (known if role in silent else own)[role] for role in _PROMPT_NAMES}


def _dimensions(name: str, model: SentenceTransformer) -> int:
    dimensions = model.get_embedding_dimension()
    if not dimensions:
        raise ModelError(f"{name} does not say how long its vectors are: choose a model with a pooling module.")
    return int(dimensions)


def _check_pooling(name: str, model: SentenceTransformer, prompts: Prompts) -> None:
    poolings = [module for module in model.children() if isinstance(module, Pooling)]
    if any(prompts.values()) and not all(pooling.include_prompt for pooling in poolings):
        raise ModelError(f"{name} leaves its prompts out of pooling, which is not supported: choose another encoder.")


def _check_last(name: str, model: SentenceTransformer) -> None:
    """Refuses to pool the last token where the end token is lost: transformers 5 no longer adds it by itself."""
    if any(isinstance(module, Pooling) and "lasttoken" in module.pooling_mode for module in model.children()):
        raise ModelError(
            f"{name} pools the end token, which its tokenizer.json leaves out although its configuration asks for it: "
            "add the token to the post-processor of tokenizer.json, or choose another encoder."
        )


def _check_head(name: str, path: Path, model: CrossEncoder) -> None:
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
    for file in (file for folder in module_folders(path) for file in folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            keys.update(tensors.keys())
    return keys


def _checked_transformer(name: str, module: Any) -> Any:
    """Refuses what sentence-transformers would tokenise otherwise than we do."""
    if not isinstance(module, Transformer) or getattr(module.tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{name} does not begin with a transformer and its fast tokenizer: choose a model that does.")
    plain = "text" in module.modality_config and "message" not in module.modality_config
    if not plain or module.processing_kwargs:
        raise ModelError(f"{name} reads chat messages or texts of fixed length, not plain text: choose another model.")
    return module


def _limit(name: str, transformer: Any, longest: int | None) -> int:
    limit = min([longest or transformer.max_seq_length or _LONGEST, *positions(transformer.model)])
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
