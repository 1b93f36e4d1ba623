"""What `winnow synthesize` tells: the estimate before, the counts afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from models.synthesis.chat import Endpoint
from models.synthesis.cost import BYTES_PER_TOKEN, QUESTION_TOKENS, Meter
from models.synthesis.harvest import Asked, Harvest
from models.synthesis.types import Usage
from models.training.pairs import Passage

if TYPE_CHECKING:
    from models.synthesis.found import RoundTrip


def grid(facts: Mapping[str, str]) -> Table:
    """Facts one below the other; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    for name, told in facts.items():
        if told:
            table.add_row(Text(name, "bold"), Text(told, overflow="fold"))
    return table


def print_prompt(passage: Passage, prompt: str) -> None:
    console = Console(highlight=False)
    console.print(Rule(Text(f"prompt for {passage.id}"), align="left"))
    console.print(Text(prompt), soft_wrap=True)


def to_ask(waiting: Sequence[Passage], chosen: int, longest: int) -> str:
    cut = sum(len(each.text) > longest for each in waiting)
    told = f"{len(waiting):,} to ask about" + (f", {chosen - len(waiting):,} answered before" * (chosen > len(waiting)))
    return told + (f"; of {cut:,} only the first {longest:,} characters are shown" if cut else "")


def place(endpoint: Endpoint) -> str:
    """Never the key itself."""
    key = f"key from {endpoint.key_from}" if endpoint.key else f"no key ({endpoint.key_from} is not set)"
    return f"{endpoint.url}, {endpoint.model}, {key}"


def guessed(usage: Usage) -> str:
    return (
        f"about {usage.prompt:,.0f} in, {usage.output:,.0f} out, taking {BYTES_PER_TOKEN:g} bytes for a token and "
        f"{QUESTION_TOKENS} tokens for a question; servers may count a third more or less, and models that reason "
        "write far more"
    )


def money(cost: float | None) -> str:
    return "unknown: give --price-in and --price-out" if cost is None else f"about {cost:,.4f}"


def duration(seconds: float, at_once: int) -> str:
    if not seconds:
        return f"as fast as the server is with {at_once} requests at once: no rate limit is given"
    return f"{seconds / 60:,.1f} minutes or more at the given rate"


def so_far(meter: Meter) -> str:
    cost = "" if meter.cost is None else f", cost {meter.cost:,.4f}"
    return f"{meter.spent.total:,.0f} tokens{cost}"


def answered(passages: int, answers: int, failed: int) -> str:
    missing = passages - answers - failed
    return f"{answers:,} of {passages:,} answered, {failed:,} failed" + (f", {missing:,} not asked" if missing else "")


def weighed(found: Harvest) -> str:
    dropped = [f"{count:,} {why}" for why, count in found.dropped.most_common()]
    told = f"{len(found.kept):,} of {len(found.kept) + found.dropped.total():,} kept"
    barren = f"; {found.barren:,} passages have none left" if found.barren else ""
    return told + (f"; dropped: {', '.join(dropped)}" if dropped else "") + barren


def trip(checked: RoundTrip, k: int) -> str:
    told = f"{len(checked.found):,} found their passage in the top {k}, {checked.missed:,} did not and are dropped"
    cut = f"; of {checked.cut:,} long passages the encoder reads only the beginning" if checked.cut else ""
    return told + cut


def styles(kept: Sequence[Asked]) -> str:
    return ", ".join(f"{style} {count:,}" for style, count in Counter(each.style for each in kept).most_common())


def spent(meter: Meter) -> str:
    cost = "" if meter.cost is None else f"; cost {meter.cost:,.4f}"
    return f"{meter.spent.prompt:,.0f} in, {meter.spent.output:,.0f} out, in all runs together{cost}"


def following(output: Path | None, dataset: Path | None) -> str:
    """The commands that use what was written."""
    train = f"winnow train encoder {quote(str(output))} --output my-encoder" if output else ""
    evaluate = f"winnow evaluate {quote(str(dataset))}" if dataset else ""
    return "\n".join(filter(None, (train, evaluate)))
