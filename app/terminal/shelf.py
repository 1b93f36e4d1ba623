"""What is known of models, as tables for people and as facts for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.settings import Settings
from app.terminal.client import UNUSABLE, Failure, read_settings, stderr
from models.cards import Card, Sort, all_cards, find, near
from models.catalog import open_encoder, open_reranker, open_sparse
from models.folder import Kind, kind_of, title
from models.types import BiEncoder, ModelError, ModelOptions, Prompts, Reranker, SparseEncoder

SPARE = 8
"""Tokens that special tokens and a model's own marks take at most, beside its prompt."""

STEP = 32

Facts = Mapping[str, Any]

OPENS: Mapping[Kind, Callable[[str, ModelOptions], BiEncoder | SparseEncoder | Reranker]] = {
    "encoder": open_encoder,
    "sparse": open_sparse,
    "reranker": open_reranker,
}


def show_all(kind: Sort | None, language: str | None, *, as_json: bool) -> None:
    """Every card that is asked for."""
    cards = [card for card in all_cards() if kind in (None, card.kind) and _speaks(card, language)]
    _print([_facts(card) for card in cards], _shelf(cards), as_json=as_json)


def show(name: str, *, as_json: bool) -> None:
    """One model: a folder as it is, any other by its card."""
    if name == "embedded" or Path(name).expanduser().is_dir():
        found = [_read(name, role) for role in _roles(name)]
        _print(found, *(_sheet(each) for each in found), as_json=as_json)
    else:
        card, settings = _card(name), read_settings()
        facts = {**_facts(card), "prompts": _in_force(card, settings)}
        _print(facts, _sheet(_explained(card, settings)), as_json=as_json)


def _speaks(card: Card, language: str | None) -> bool:
    return language is None or card.speaks(language.lower())


def _card(name: str) -> Card:
    if card := find(name):
        return card
    meant = near(name)
    rest = f"Is one of these meant? {', '.join(meant)}" if meant else "`winnow models` lists those that have one."
    raise Failure(f"There is no card of {name}, and no such folder. {rest}", UNUSABLE)


def _facts(card: Card) -> Facts:
    return card.model_dump(exclude_defaults=True) | {"prompts": card.prompts, "opens": card.obstacle is None}


def _roles(name: str) -> list[Kind]:
    if name == "embedded":
        return ["encoder", "reranker"]
    return [kind_of(Path(name).expanduser()) or "encoder"]


def _read(name: str, role: Kind) -> Facts:
    """What a folder says of itself once it is open."""
    options = ModelOptions(device="cpu", runtime="torch", prompts=read_settings().prompts)
    try:
        with stderr.status("reading the model"):
            model = OPENS[role](name, options)
    except ModelError as error:
        raise Failure(str(error), UNUSABLE) from error
    facts = {"name": name, "kind": title(role), "dimensions": getattr(model, "dimensions", None)}
    return facts | {"tokens": model.capacity, "prompts": dict(model.prompts), "fingerprint": model.fingerprint}


def _explained(card: Card, settings: Settings) -> Facts:
    """A card in the order in which one asks."""
    return {
        "name": card.name,
        "kind": f"{card.kind}, of the family {card.family}",
        "choose it when": card.choose,
        "vocabulary" if card.kind == "sparse" else "numbers in a vector": card.dimensions,
        "shorter vectors": _shorter(card),
        "longest input": card.tokens,
        "languages": _languages(card, listed=True),
        "licence": card.licence,
        "parameters": _size(card),
        "prompts": _in_force(card, settings),
        "another instruction": _other_prompt(card),
        "terms": "must be agreed to on the hub before it gives the model" if card.gated else None,
        "note": card.note,
        "here": _here(card),
        **(_service(card, settings) if card.obstacle is None else {}),
        "facts from": card.source,
    }


def _here(card: Card) -> str:
    if card.obstacle:
        return f"refused, since {card.obstacle}; take {card.instead}"
    asked = ", once the hub gives it (HF_TOKEN)" if card.gated else ""
    prompted = (
        "; the prompts stand in front of texts unless it was saved with others" if any(card.prompts.values()) else ""
    )
    return f"opened by its name{asked}{prompted}"


def _in_force(card: Card, settings: Settings) -> Prompts:
    """The authors' prompts, or what the settings say in their place."""
    return {**card.prompts, **settings.prompts.get(card.name, {})}


def _other_prompt(card: Card) -> str | None:
    """How to ask for something else."""
    if not card.instruction or card.obstacle:
        return None
    query = json.dumps(card.query.replace("{instruction}", "…"), ensure_ascii=False)
    return f"encoder_query_prompt = {query} in winnow.toml"


def _service(card: Card, settings: Settings) -> Facts:
    """How it is served, with chunks that it surely reads whole."""
    reserve = {"cross-encoder": settings.query_reserve, "late-interaction": SPARE}.get(card.kind, 0)
    # A prompt has no more tokens than bytes.
    prompt = len(_in_force(card, settings)["document"].encode())
    room = None if card.tokens is None else card.tokens - SPARE - reserve - prompt
    needed = {"WINNOW_QUERY_RESERVE": SPARE} if card.kind == "late-interaction" else {}
    if room is not None and room < settings.chunk_tokens:
        needed["WINNOW_CHUNK_TOKENS"] = room // STEP * STEP
    variables = "".join(f"{name}={value} " for name, value in needed.items())
    said = f"of up to {room:,} tokens fit, and perhaps a few more" if room else "the start says so when they do not fit"
    return {"chunks": said, "serve it with": f"{variables}winnow serve --{card.role} {card.name}"}


def _shelf(cards: Sequence[Card]) -> RenderableType:
    if not cards:
        return Text("No card fits: leave out --kind or --language.")
    tables = [_table(kind, list(found)) for kind, found in groupby(cards, lambda card: card.kind)]
    return Group(*tables, Text("\n✗ is refused, * has terms to agree to first: winnow models NAME tells more.", "dim"))


def _table(kind: Sort, cards: Sequence[Card]) -> Table:
    table = Table(title=f"\n{kind}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("model", style="cyan", overflow="fold", min_width=20)
    for name in ("dims", "tokens", "speaks"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("licence", overflow="fold", min_width=12)
    table.add_column("shorter", overflow="fold", width=9)
    table.add_column("size", justify="right", no_wrap=True, min_width=5)
    for card in cards:
        table.add_row(*(Text(cell) for cell in _row(card)), style="dim" if card.obstacle else None)
    return table


def _row(card: Card) -> list[str]:
    numbers = ["" if each is None else f"{each:,}" for each in (card.dimensions, card.tokens)]
    words = [_languages(card), card.licence, _shorter(card), _size(card)]
    mark = " ✗" if card.obstacle else " *" if card.gated else ""
    return [card.name + mark, *numbers, *(word or "" for word in words)]


def _shorter(card: Card) -> str | None:
    if card.shortest:
        return f"any from {card.shortest}"
    return ", ".join(str(each) for each in card.matryoshka) or None


def _languages(card: Card, *, listed: bool = False) -> str:
    if not card.languages:
        return f"about {card.multilingual}" if listed else f"~{card.multilingual}"
    return " ".join(card.languages) if listed or len(card.languages) < 4 else str(len(card.languages))


def _size(card: Card) -> str | None:
    if card.parameters is None:
        return None
    return f"{card.parameters:.0f} M" if card.parameters < 1000 else f"{card.parameters / 1000:.1f} B"


def _sheet(facts: Facts) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for label, value in facts.items():
        for name, shown in _lines(label, value):
            table.add_row(Text(name, "bold"), Text(shown, overflow="fold"))
    return table


def _lines(label: str, value: Any) -> Iterator[tuple[str, str]]:
    """What is known; prompts in quotes, since their blanks count."""
    if isinstance(value, Mapping):
        yield from ((f"{side} prompt", json.dumps(text, ensure_ascii=False)) for side, text in value.items() if text)
    elif value:
        yield label, f"{value:,}" if isinstance(value, int) else str(value)


def _print(facts: Any, *tables: RenderableType, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        Console(highlight=False).print(Group(*tables))
