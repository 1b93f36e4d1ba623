"""From a torch model to an OpenVINO network: all of its modules in one graph, traced by way of example."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from models.converted import Converted, Facts, Source
from models.first_token import narrow
from models.late_head import nearness_to_first, rounded
from models.proof import QUERY, TEXTS
from models.quiet_openvino import openvino
from models.runtimes import Unavailable
from models.torch_late import TOKENS
from models.torch_loading import quiet
from models.torch_runtime import TorchEncoder, TorchReranker
from models.types import ModelOptions, Tokens


class _Graph(nn.Module):
    """A model's modules, from token ids to what a text is worth."""

    def __init__(self, model: TorchEncoder | TorchReranker) -> None:
        super().__init__()
        self._parts = nn.ModuleList(model.body.modules)
        self._output = "sentence_embedding" if isinstance(model, TorchEncoder) else "scores"
        self._last = nn.Identity() if isinstance(model, TorchEncoder) else model.activation

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        for part in self._parts:
            if isinstance(part, Pooling):  # texts are filled up at the end, so it need not look for the first token
                features["cls_token_embeddings"] = features["token_embeddings"][:, 0]
            features = part(features)
        made = self._last(features[self._output])
        return (made, features[TOKENS]) if TOKENS in features else made


def convert(source: Source) -> Converted:
    """Opens a model in torch, with all the checks that this brings."""
    exact = replace(source.options, device="cpu", precision="float32")
    model, tokens, expected = _encoder(source, exact) if source.kind == "encoder" else _reranker(source, exact)
    near = _near(model, tokens)
    facts = Facts(
        prompts=dict(model.prompts),
        limit=model.text.limit,
        padding=model.body.padding,
        dimensions=len(expected[0]),
        fingerprint=model.fingerprint,
        samples=[(each.ids.tolist(), each.types.tolist()) for each in tokens],
        expected=expected,
        near=near,
    )
    return Converted(_network(model, tokens), model.tokenizer, facts)


def _encoder(source: Source, exact: ModelOptions) -> tuple[TorchEncoder, list[Tokens], list[list[float]]]:
    model = TorchEncoder(source.name, source.path, exact, source.known)
    tokens = model.tokenize([QUERY], "query") + model.tokenize(TEXTS, "document")
    return model, tokens, model.encode(tokens).tolist()


def _reranker(source: Source, exact: ModelOptions) -> tuple[TorchReranker, list[Tokens], list[list[float]]]:
    model = TorchReranker(source.name, source.path, exact)
    tokens = model.tokenize(QUERY, TEXTS)
    return model, tokens, model.score(tokens).reshape(-1, 1).tolist()


def _near(model: TorchEncoder | TorchReranker, tokens: Sequence[Tokens]) -> list[float]:
    """How near the samples are token by token, their frames included."""
    if isinstance(model, TorchReranker) or not model.late:
        return []
    with torch.inference_mode():
        states = [own[: len(text)] for own, text in zip(model.run(tokens)[TOKENS], tokens, strict=True)]
    return [float(each) for each in nearness_to_first([rounded(own.numpy()) for own in states])]


def _network(model: TorchEncoder | TorchReranker, tokens: Sequence[Tokens]) -> Any:
    """The graph for any number of texts of any length; the example has texts of different lengths, and so padding."""
    try:
        with quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Attention as torch's one operator gives NaN where a window sees nothing but padding; it is no faster here.
            model.body.transformer.model.set_attn_implementation("eager")
            network = openvino.convert_model(_Graph(model).eval(), example_input=model.body.inputs(tokens))
    except Exception as error:  # tracing runs a model's own code, which may raise anything
        reason = (str(error) or repr(error)).strip().splitlines()[-1]
        raise Unavailable(f"it can't be converted: {reason.strip(' -')}") from error
    narrow(network)
    return network
