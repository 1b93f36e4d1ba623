"""The last of an encoder's modules in torch where it compares token by token: states of one layer, made short."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.torch_body import Body
from models.types import LateHead, ModelError

TOKENS = "token_vectors"
"""What it calls them."""


class TokenHead(nn.Module):
    """Beside what a text is worth, what each of its tokens is."""

    forward_kwargs: frozenset[str] = frozenset()

    mean: Tensor
    projection: Tensor

    def __init__(self, head: LateHead) -> None:
        super().__init__()
        self._layer = head.layer
        self.register_buffer("mean", torch.from_numpy(head.mean))
        self.register_buffer("projection", torch.from_numpy(head.projection))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        states: Tensor = features["all_layer_embeddings"][self._layer].float()
        features[TOKENS] = nn.functional.normalize((states - self.mean) @ self.projection, dim=-1)
        return features


def attach(name: str, body: Body, head: LateHead) -> None:
    """Lets a body give token vectors too."""
    config: Any = body.transformer.model.config
    layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    if head.layer > layers or len(head.mean) != width:
        raise ModelError(
            f"{name} has {layers} layers of {width} numbers, and its folder `late` is made for layer {head.layer} of "
            f"{len(head.mean)} numbers: remove that folder, or make it anew with `winnow train late`."
        )
    config.output_hidden_states = True
    body.modules.append(TokenHead(head).to(body.device).eval())
