"""Cards: the facts of well-known models, so that nobody has to look them up and their prompts are not forgotten.

A file of models/cards holds a family: what is said above its models goes for each of them that says nothing else. A
fact that could not be verified is left out.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from models.folder import Kind, title
from models.types import ModelError, Prompts

Sort = Literal["encoder", "sparse", "cross-encoder", "late-interaction"]

_FOLDER = Path(__file__).parent / "cards"
_SLOT = "{instruction}"


class Card(BaseModel):
    """What is known of one model of a hub."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    family: str
    kind: Sort
    choose: str
    """When to choose it: ends the sentence "Choose it when …"."""
    source: str
    formerly: str | None = None
    dimensions: int | None = None
    """Of a sparse encoder, the terms of its vocabulary."""
    tokens: int | None = None
    """The longest input that its authors recommend; of a cross-encoder, query and text together."""
    parameters: float | None = None
    """In millions."""
    licence: str | None = None
    languages: list[str] = []
    multilingual: int | None = None
    """How many languages its authors count, where they name none."""
    matryoshka: list[int] = []
    """Shorter vectors that it was trained for."""
    shortest: int | None = None
    """It was trained for every length from this one on."""
    query: str = ""
    document: str = ""
    instruction: str = ""
    """What its authors ask for in a search: stands in the prompt where that says so."""
    gated: bool | None = None
    """Whether the hub gives it only to those who agreed to its terms; None where that was not looked up."""
    own_code: bool = False
    refused: str | None = None
    """Why Winnow does not open it, code apart."""
    instead: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (_SLOT in self.query + self.document) != bool(self.instruction):
            raise ValueError("an instruction and its place in a prompt go together")
        if bool(self.obstacle) != bool(self.instead):
            raise ValueError("a model that is not opened, and no other, names one to take instead")
        return self

    @property
    def role(self) -> Kind:
        """The stage that it can serve."""
        return "reranker" if self.kind == "cross-encoder" or self.kind == "late-interaction" else self.kind

    @property
    def prompts(self) -> Prompts:
        """What stands in front of texts, with the authors' instruction."""
        filled = [prompt.replace(_SLOT, self.instruction) for prompt in (self.query, self.document)]
        return {"query": filled[0], "document": filled[1]}

    @property
    def obstacle(self) -> str | None:
        """Why Winnow does not open it."""
        return "it needs code of its own, which is never run" if self.own_code else self.refused

    def speaks(self, language: str) -> bool:
        """Whether it may know a language (ISO 639): whoever counts languages without naming them is believed."""
        return language in self.languages or (self.multilingual is not None and not self.languages)


@cache
def all_cards() -> tuple[Card, ...]:
    """Every card: encoders first, then by family and in the order of its file."""
    cards = [card for file in sorted(_FOLDER.glob("*.toml")) for card in _read(file)]
    return tuple(sorted(cards, key=lambda card: get_args(Sort).index(card.kind)))


def find(name: str) -> Card | None:
    """The card of a model by its hub name, be it an old one."""
    return next((card for card in all_cards() if name in (card.name, card.formerly)), None)


def known_as(name: str, path: Path) -> Card | None:
    """The card of a model that was opened: by its name, or by a folder that is called like it.

    What a fine-tuned model names as its base says nothing here: it may have been trained with other prompts.
    """
    parts = path.resolve().parts
    cached = [part.removeprefix("models--").replace("--", "/", 1) for part in parts if part.startswith("models--")]
    names = [name, *cached, "/".join(parts[-2:])]
    return next((card for each in names if (card := find(each))), None)


def near(name: str) -> list[str]:
    """Names of cards that a misspelt or shortened one may mean."""
    names = [card.name for card in all_cards()]
    within = [each for each in names if name.lower() in each.lower()]
    short = {each.split("/")[1].lower(): each for each in names}
    close = get_close_matches(name.lower().split("/")[-1], short, n=3)
    return list(dict.fromkeys([*within, *(short[each] for each in close)]))[:5]


def refuse(name: str, kind: Kind) -> None:
    """Refuses, before anything is fetched, what could not be opened afterwards."""
    card = find(name)
    if card is None:
        return
    if card.role != kind:
        raise ModelError(
            f"{name} is a model of the kind {card.kind}, which can't serve as {title(kind)}: choose another one."
        )
    if card.obstacle:
        raise ModelError(f"{name} can't be opened, since {card.obstacle}: choose {card.instead} instead.")


def _read(file: Path) -> list[Card]:
    family = tomllib.loads(file.read_text(encoding="utf-8"))
    models = family.pop("models")
    return [Card(**(family | model)) for model in models]
