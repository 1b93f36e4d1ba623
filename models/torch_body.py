"""What all kinds of model share in torch: a transformer, the modules after it, and a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sentence_transformers.base import BaseModel
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from models.batch import check_finite, padded
from models.tokens import TextTokenizer
from models.torch_device import to_bfloat16, wants_bfloat16
from models.types import ModelError, ModelOptions, OutOfMemory, Precision, Role, Tokens

# Tokenizers without a limit of their own say 10**30.
_LONGEST = 10**6


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
        self.precision: Precision = "bfloat16" if wants_bfloat16(options, self._device) else "float32"
        if self.precision == "bfloat16":
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


def _in_float32(features: dict[str, Any]) -> dict[str, Any]:
    return {key: value.float() if _is_narrow(value) else value for key, value in features.items()}


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def finite(name: str, output: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a model gave, unless it is not made of numbers."""
    numbers: np.ndarray[Any, np.dtype[np.float32]] = output.float().cpu().numpy()
    check_finite(name, numbers)
    return numbers


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
