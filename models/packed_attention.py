"""Attention within each of the texts that lie in one row, as an attention function of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from models.runtimes import Unavailable

NAME = "winnow_packed"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a token looks at."""

    ends: Tensor
    """Of the texts: where each begins, and where the last one ends."""
    longest: int
    scale: float | None = None
    window: tuple[int, int] = (-1, -1)
    """How many tokens on its left and on its right; -1 for all of the text."""


def pack(model: Any) -> None:
    """Lets a transformer read texts that lie in one row. Where a head follows, it gets a row for each text again."""
    if not model.is_backend_compatible():
        raise Unavailable("its kind of attention can't be had without padding")
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    model.config.use_cache = False  # no token will follow that would look back
    if model.base_model is not model:
        model.base_model.register_forward_hook(_by_text, with_kwargs=True)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer; heads come before tokens, and the row is the only one."""
    if attention_mask is not None or any(others.get(name) is not None for name in ("softcap", "s_aux")):
        raise Unavailable("its attention has more to it than queries, keys and values")
    causal = bool(others.get("is_causal", getattr(module, "is_causal", False)))
    scope = Scope(cu_seq_lens_q, max_length_q, scaling, _window(causal, sliding_window))
    compute = at_once if query.is_cuda and query.dtype != torch.float32 else one_by_one
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    return compute(query, key, value, scope)[None], None


def at_once(query: Tensor, key: Tensor, value: Tensor, scope: Scope) -> Tensor:
    """All texts in one kernel. What belongs to none of them comes out as whatever lay in memory."""
    from torch.nn.attention.varlen import varlen_attn  # newer than the oldest torch we take

    # A text's keys are not split between blocks: that would make its rounding depend on how long others are.
    whole: dict[str, Any] = {} if torch.version.hip else {"num_splits": 1}
    ends, longest = scope.ends, scope.longest
    attended: Any = varlen_attn(
        query, key, value, ends, ends, longest, longest,
        scale=scope.scale, window_size=scope.window, enable_gqa=_grouped(query, key), **whole,
    )  # fmt: skip
    rows: Tensor = attended
    return rows


def one_by_one(query: Tensor, key: Tensor, value: Tensor, scope: Scope) -> Tensor:
    """The same with what every device and number format has."""
    attended = torch.zeros_like(query)
    for start, end in pairwise(scope.ends.tolist()):
        text = functional.scaled_dot_product_attention(
            query[start:end].transpose(0, 1),
            key[start:end].transpose(0, 1),
            value[start:end].transpose(0, 1),
            attn_mask=_seen(end - start, scope.window, query.device),
            scale=scope.scale,
            enable_gqa=_grouped(query, key),
        )
        attended[start:end] = text.transpose(0, 1)
    return attended


def _grouped(query: Tensor, key: Tensor) -> bool:
    return query.shape[1] != key.shape[1]


def _window(causal: bool, size: int | None) -> tuple[int, int]:
    """As transformers counts: a token is itself one of those in its window, on either side."""
    left = -1 if size is None else size - 1
    return left, 0 if causal else left


def _seen(length: int, window: tuple[int, int], device: torch.device) -> Tensor | None:
    """Which token looks at which; nothing where each looks at all."""
    if window == (-1, -1):
        return None
    left, right = (length if side < 0 else side for side in window)
    steps = torch.arange(length, device=device)
    ahead = steps - steps[:, None]
    return (ahead >= -left) & (ahead <= right)


def _by_text(body: nn.Module, _: Any, told: dict[str, Any], output: Any) -> Any:
    """A transformer's output with a row for each text: the first token, or as many as the mask has."""
    ends, width = told["cu_seq_lens_q"], told["attention_mask"].shape[1]
    steps = torch.arange(width, device=ends.device)
    # What is behind a text's end repeats its last token: a mean over masked numbers needs them to be numbers.
    places = torch.minimum(ends[:-1, None] + steps, ends[1:, None] - 1).clamp(min=0)
    output["last_hidden_state"] = output["last_hidden_state"][0, places]
    if (pooler := getattr(body, "pooler", None)) is not None:
        output["pooler_output"] = pooler(output["last_hidden_state"])
    return output
