"""What is evaluated: models, recipe and depths; and variants of it, as `--compare` names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, get_args

from app.errors import WinnowError
from app.quality.types import BASE
from app.types import Fusing, Fusion, Mode, Recipe
from models.types import AskedPrecision, Precision
from models.words import LANGUAGES, Language

TITLES = ("first", "every", "never")
FUSINGS = get_args(Fusing)
PRECISIONS = ("auto", *get_args(Precision))

SHORTEST = 16
"""Tokens of a chunk, as the settings have it."""

KEYS = (
    "encoder", "reranker", "sparse", "dims", "chunk_tokens", "overlap_tokens", "title", "candidates", "language",
    "late", "precision", "collection", "fusion", "dense_weight", "lexical_weight", "sparse_weight", "fusion_k",
)  # fmt: skip
WHOLE = ("dims", "chunk_tokens", "overlap_tokens", "fusion_k")
WEIGHTS = ("dense_weight", "lexical_weight", "sparse_weight")
FUSING = {"fusion": "by", **{name: name.removesuffix("_weight") for name in WEIGHTS}, "fusion_k": "k"}
"""How a search calls them."""

OF_COLLECTIONS = ("collection", "candidates", "late", *FUSING)
"""What a running service lets one choose; the rest is settled in the collection."""


class BadSetup(WinnowError):
    """Settings that can't be evaluated; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One variant."""

    encoder: str
    reranker: str
    recipe: Recipe = field(default_factory=Recipe)
    dims: int | None = None
    """First numbers of each vector that are used; None: all."""
    candidates: tuple[int, ...] = (50,)
    """How many chunks the cross-encoder reads; with several, a curve is drawn and the arms are those of the deepest."""
    language: Language = "english"
    fusing: Mapping[str, Any] = field(default_factory=dict)
    """What is not as usual about the fusion, as a search may ask for it."""
    mode: Mode = "hybrid"
    """That of a search which names none."""
    rerank: bool = True
    sparse: str = ""
    """A sparse encoder, if there is to be any."""
    late: bool = True
    """Whether candidates are compared token by token, where the encoder does that."""
    precision: AskedPrecision | None = None
    """The numbers that models compute in, if not those of the settings."""
    collection: str | None = None
    """A collection of a running service, which then has the models and the recipe."""
    name: str = BASE

    @property
    def depth(self) -> int:
        return max(self.candidates)

    @property
    def first(self) -> str:
        """The first stage whose candidates are served."""
        return "dense" if self.mode == "dense" else "fused"

    @property
    def fusion(self) -> Fusion:
        return Fusion(**self.fusing)


def vary(base: Setup, text: str) -> Setup:
    """The base with what the text changes: `encoder=./mine,dims=128`."""
    given = dict(_pair(part, base) for part in text.split(","))
    recipe = {name: given.pop(name) for name in ("chunk_tokens", "overlap_tokens", "title") if name in given}
    fusing = {short: given.pop(name) for name, short in FUSING.items() if name in given}
    settled = {"recipe": replace(base.recipe, **recipe), "fusing": {**base.fusing, **fusing}, "name": text}
    varied: Mapping[str, Any] = given | settled
    return checked(replace(base, **varied))


def checked(setup: Setup) -> Setup:
    """Refuse what no model has to be asked for."""
    if setup.language not in LANGUAGES:
        raise BadSetup(f"There is no language '{setup.language}': choose one of {', '.join(LANGUAGES)}.")
    if setup.precision and setup.precision not in PRECISIONS:
        raise BadSetup(f"precision={setup.precision} is not possible: choose one of {', '.join(PRECISIONS)}.")
    if setup.recipe.title not in TITLES:
        raise BadSetup(f"title={setup.recipe.title} is not possible: choose one of {', '.join(TITLES)}.")
    if setup.depth < 1 or min(setup.candidates) < 1 or (setup.dims is not None and setup.dims < 1):
        raise BadSetup("candidates and dims must be at least 1.")
    if setup.fusion.by not in FUSINGS:
        raise BadSetup(f"fusion={setup.fusion.by} is not possible: choose one of {', '.join(FUSINGS)}.")
    fusion = setup.fusion
    if not all(0 < number < inf for number in (fusion.k, fusion.dense, fusion.lexical, fusion.sparse)):
        raise BadSetup(f"fusion_k, {', '.join(WEIGHTS[:-1])} and {WEIGHTS[-1]} must be more than 0.")
    if setup.recipe.chunk_tokens < SHORTEST:
        raise BadSetup(f"chunk_tokens must be at least {SHORTEST}.")
    return setup


def depths(text: str) -> tuple[int, ...]:
    """`10,20,50` in rising order."""
    return tuple(sorted({_number("candidates", part) for part in text.split(",")}))


def _pair(text: str, base: Setup) -> tuple[str, Any]:
    name, given, value = (part.strip() for part in text.partition("="))
    allowed = OF_COLLECTIONS if base.collection else tuple(name for name in KEYS if name != "collection")
    if not given or not value or name not in allowed:
        raise BadSetup(f"--compare {text!r} says nothing: write key=value, with one of {', '.join(allowed)} for a key.")
    if name == "candidates":
        return name, (_number(name, value),)
    if name in WEIGHTS:
        return name, _decimal(name, value)
    if name == "late":
        return name, _truth(name, value)
    return name, _number(name, value) if name in WHOLE else value


def _truth(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise BadSetup(f"{name} is {text!r}, which is neither true nor false.")
    return text == "true"


def _decimal(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadSetup(f"{name} is {text!r}, which is not a number.") from error


def _number(name: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise BadSetup(f"{name} is {text!r}, which is not a whole number.")
    return int(text)
