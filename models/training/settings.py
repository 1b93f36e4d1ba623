"""What trainings can be told. Each field is a flag of the command line, with its words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from shlex import quote
from typing import Annotated, Any, Literal

from models.training.errors import TrainingError
from models.types import Prompts, Role
from models.words import Language

Apart = Literal["both", "queries"]

QueryPrompt = Annotated[str | None, "Stands in front of queries in place of the encoder's own prompt."]
DocumentPrompt = Annotated[str | None, "Stands in front of passages, likewise."]

UNBINDING = frozenset({"minutes", "threads", "licence"})
"""Settings that an interrupted run may go on with under other values."""

ABOVE_ZERO = frozenset(
    {"hidden", "scale", "sharpness", "epochs", "batch", "width", "tokens", "count", "read", "rate", "window"}
    | {"checkpoint_every"}
)
BOUNDLESS = frozenset({"margin", "twin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What all trainings share."""

    base: Annotated[str, "Model to start from: `embedded`, a folder, or a hub name."] = "embedded"
    take: Annotated[
        str, "Sources to train on, with the most examples of each: `faq=2000,tickets=500`. By default all."
    ] = ""
    held_out: Annotated[int, "Most queries to keep out of training and judge by; never more than a tenth of all."] = 400
    apart: Annotated[
        Apart,
        "What the held-out part shares with the rest: `both` neither queries nor answers, `queries` no queries. "
        "The latter is for data with few answers to many queries each.",
    ] = "both"
    seed: Annotated[int, "Same seed, same data, same machine: same model."] = 7
    device: Annotated[str, "Where to train: `auto`, `cpu`, `cuda` or `cuda:1`."] = "auto"
    threads: Annotated[int, "CPU threads; 0: as torch chooses."] = 0
    licence: Annotated[str, "Licence of the new weights, for the model card."] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings(RunSettings):
    """What trainings through the whole model share."""

    epochs: Annotated[float, "How often all of the data is seen."] = 1.0
    steps: Annotated[int, "Exact number of steps, whatever the epochs say; -1: as the epochs say."] = -1
    minutes: Annotated[
        float, "Stop after so many minutes, those before an interruption included, and keep the best so far; 0: never."
    ] = 0.0
    evaluate_every: Annotated[int, "Judge by the held-out queries after so many steps too, not only after epochs."] = 0
    checkpoint_every: Annotated[int, "Steps after which an interrupted run can go on where it stopped."] = 200
    share: Annotated[float, "How far to go from the base model's weights to the trained ones."] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings(TrainingSettings):
    """A training of the encoder."""

    dims: Annotated[
        str, "Dimensions that vectors may be cut to: `384,256,128,64`. By default those that fit the base."
    ] = ""
    negatives: Annotated[int, "Mined negatives used beside each pair, where the pairs have some."] = 1
    batch: Annotated[int, "Pairs a step; each pair's passage is a negative of all others."] = 64
    tokens: Annotated[int, "Tokens of a text that training reads. Shorter is faster."] = 192
    rate: Annotated[float, "Learning rate at its height."] = 5e-5
    query_prompt: QueryPrompt = None
    document_prompt: DocumentPrompt = None
    anchor: Annotated[float, "How strongly whole vectors are held near the base model's; 0: not at all."] = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings(RunSettings):
    """A fit of the head behind an encoder."""

    dims: Annotated[
        str, "Dimensions that vectors may be cut to: `384,256,128,64`. By default those that fit the base."
    ] = ""
    tokens: Annotated[int, "Tokens of a passage that are embedded. Shorter is faster."] = 256
    query_prompt: QueryPrompt = None
    document_prompt: DocumentPrompt = None
    hidden: Annotated[int, "Width of the layer between; at least twice the length of a vector."] = 1536
    scale: Annotated[float, "Scale of that layer at the start: the higher, the less it stays a rotation."] = 2.0
    sharpness: Annotated[float, "How much the nearest passages count before the others."] = 20.0
    batch: Annotated[int, "Pairs a step."] = 256
    steps: Annotated[int, "Number of steps."] = 500
    rate: Annotated[float, "Learning rate at the start."] = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerSettings(TrainingSettings):
    """A training of the reranker."""

    loss: Annotated[
        Literal["listwise", "binary"], "`listwise`: the answer against its group; `binary`: each passage on its own."
    ] = "listwise"
    batch: Annotated[int, "Groups a step."] = 16
    width: Annotated[int, "Passages in one pass through the model: memory against speed."] = 16
    tokens: Annotated[int, "Tokens of a query and a passage that training reads."] = 256
    rate: Annotated[float, "Learning rate at its height."] = 8e-5
    dense: Annotated[
        float | None, "Weight of the cosine beside the logit at the start; it is learned. By default the base's, or 15."
    ] = None
    lexical: Annotated[
        float, "Weight of the BM25 share likewise. 0 of either leaves it out: with both there is little left to learn."
    ] = 0.0
    weights_rate: Annotated[float, "Learning rate of these two weights."] = 2e-2
    teacher: Annotated[
        str, "Encoder to learn from beside the answers: its token vectors are compared one by one. By default none."
    ] = ""
    teacher_layer: Annotated[int, "Which of its layers; 0: the last."] = 0
    teacher_weight: Annotated[float, "Weight of its opinion, -1 to 1, beside the first stage's scores."] = 40.0
    imitation: Annotated[float, "How much its order counts beside the answers."] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendSettings:
    """A fit of the blend."""

    encoder: Annotated[str, "Encoder whose cosines the blend is for: `embedded`, a folder, or a hub name."] = "embedded"
    query_prompt: QueryPrompt = None
    document_prompt: DocumentPrompt = None
    reranker: Annotated[str, "Reranker to fit it for, named likewise."] = "embedded"
    held_out: Annotated[int, "As in the reranker's training, to fit on what it never saw; 0: fit on all groups."] = 400
    apart: Annotated[Apart, "As in the reranker's training."] = "both"
    seed: Annotated[int, "As in the reranker's training."] = 7
    device: Annotated[str, "Where to compute: `auto`, `cpu`, `cuda` or `cuda:1`."] = "auto"
    threads: Annotated[int, "CPU threads; 0: as torch chooses."] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingSettings:
    """What 8 bits cost a reranker."""

    reranker: Annotated[str, "Reranker to round: `embedded`, a folder, or a hub name."] = "embedded"
    held_out: Annotated[int, "As in the reranker's training, to judge by what it never saw; 0: judge by all."] = 400
    apart: Annotated[Apart, "As in the reranker's training."] = "both"
    seed: Annotated[int, "As in the reranker's training."] = 7
    threads: Annotated[int, "CPU threads; 0: as the runtime chooses."] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSettings:
    """What an encoder keeps of tokens."""

    encoder: Annotated[str, "Encoder to start from: `embedded`, a folder, or a hub name."] = "embedded"
    query_prompt: QueryPrompt = None
    document_prompt: DocumentPrompt = None
    layer: Annotated[int, "Layer whose states the tokens are; 0: the last but one."] = 0
    width: Annotated[int, "Numbers to keep of each token, a byte each: disk against quality."] = 48
    count: Annotated[int, "Most texts of a source to count tokens in: what is rare."] = 3000
    read: Annotated[int, "Most of them that are read: along what tokens differ."] = 300
    tokens: Annotated[int, "Tokens of a text that are read."] = 256
    dense: Annotated[float, "Weight of the cosine where candidates are put in order without a reranker."] = 33.0
    lexical: Annotated[float, "Weight of the BM25 share, in hybrid searches."] = 16.5
    weight: Annotated[float, "Weight of what comes of comparing token by token."] = 50.0
    seed: Annotated[int, "Same seed, same texts, same machine: same numbers."] = 7
    device: Annotated[str, "Where to compute: `auto`, `cpu`, `cuda` or `cuda:1`."] = "auto"
    threads: Annotated[int, "CPU threads; 0: as torch chooses."] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningSettings:
    """How hard, how many and how surely wrong the negatives are."""

    encoder: Annotated[str, "Encoder to find them by: `embedded`, a folder, or a hub name."] = "embedded"
    query_prompt: QueryPrompt = None
    document_prompt: DocumentPrompt = None
    take: Annotated[
        str, "Sources to mine for, with the most pairs of each: `faq=2000,tickets=500`. By default all."
    ] = ""
    dense: Annotated[int, "Negatives of a query by the encoder."] = 4
    lexical: Annotated[int, "Negatives of a query by BM25."] = 2
    fused: Annotated[int, "Negatives of a query that both rank high: near what a hybrid search reranks."] = 0
    window: Annotated[int, "How far down the rankings to draw them from."] = 30
    skip_first: Annotated[int, "Leave out so many at the top of each ranking: there unlabelled answers stand."] = 0
    margin: Annotated[float, "Leave out a passage whose cosine is so much higher than the answer's."] = 0.05
    twin: Annotated[float, "Leave out a passage whose cosine with the answer is so high: it says the same."] = 0.95
    distractors: Annotated[int, "Most passages of a source to draw from, beside the answers of its pairs."] = 4000
    tokens: Annotated[int, "Tokens of a passage that are embedded."] = 256
    language: Annotated[Language, "Whose stems and stop words BM25 takes; `none` for neither."] = "english"
    seed: Annotated[int, "Same seed, same data: same negatives."] = 7
    device: Annotated[str, "Where to compute: `auto`, `cpu`, `cuda` or `cuda:1`."] = "auto"
    threads: Annotated[int, "CPU threads; 0: as torch chooses."] = 0


Settings = RunSettings | BlendSettings | RoundingSettings | LateSettings | MiningSettings

Prompted = EncoderSettings | HeadSettings | BlendSettings | LateSettings | MiningSettings
"""Settings of what asks an encoder."""


def asked_prompts(settings: Prompted) -> Prompts:
    """What shall stand in front of texts, as far as that was said."""
    asked: dict[Role, str | None] = {"query": settings.query_prompt, "document": settings.document_prompt}
    return {role: prompt for role, prompt in asked.items() if prompt is not None}


def check(settings: Settings) -> None:
    """Refuses numbers that nothing can be done with."""
    for name, value in values(settings).items():
        least = -1 if name == "steps" else 0
        if name in ABOVE_ZERO and value <= 0:
            raise TrainingError(f"{flag(name)} must be above 0, not {value}.")
        if isinstance(value, int | float) and name not in BOUNDLESS and value < least:
            raise TrainingError(f"{flag(name)} must be {least} or more, not {value}.")


def flag(name: str) -> str:
    """The setting as it is typed."""
    return f"--{name.replace('_', '-')}"


def flags(settings: Settings) -> list[str]:
    """What to type for these settings: those that differ from their defaults."""
    given = {each.name: (getattr(settings, each.name), each.default) for each in fields(settings)}
    return [f"{flag(name)}={quote(str(value))}" for name, (value, default) in given.items() if value != default]


def values(settings: Settings) -> dict[str, Any]:
    """All settings by name."""
    return {each.name: getattr(settings, each.name) for each in fields(settings)}


def caps(take: str) -> dict[str, int]:
    """`faq=2000,tickets=500` as numbers."""
    found = {}
    for part in filter(None, take.split(",")):
        source, _, count = part.strip().partition("=")
        if not source or not count.isdigit():
            raise TrainingError(f"--take {take!r} must look like `faq=2000,tickets=500`.")
        found[source] = int(count)
    return found


def dimensions(dims: str, full: int) -> tuple[int, ...]:
    """What vectors may be cut to, the whole length first."""
    wanted = dims.split(",") if dims else ["384", "256", "128", "64"]
    if not all(each.strip().isdigit() and int(each) > 0 for each in wanted):
        raise TrainingError(f"--dims {dims!r} must look like `384,256,128,64`.")
    numbers = {int(each) for each in wanted}
    if dims and max(numbers) > full:
        raise TrainingError(f"--dims {dims!r} has more than the {full} dimensions of the base model.")
    return tuple(sorted({full, *(each for each in numbers if each < full)}, reverse=True))
