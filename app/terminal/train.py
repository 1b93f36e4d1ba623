"""`winnow mine` and `winnow train`: what they take from the command line, and what they say."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.terminal.client import UNUSABLE, Failure, read_settings, stderr
from models.training.errors import Interrupted, TrainingError
from models.training.settings import (
    BlendSettings,
    EncoderSettings,
    HeadSettings,
    LateSettings,
    MiningSettings,
    Prompted,
    RerankerSettings,
    RoundingSettings,
    RunSettings,
    Settings,
)
from models.types import ModelError

if TYPE_CHECKING:
    from models.training.card import Report
    from models.types import Blend

INTERRUPTED = 130
EXTRA = frozenset({"accelerate", "bm25s", "datasets", "scipy"})

Pairs = Annotated[
    Path, typer.Argument(exists=True, help="Pairs: .jsonl, .jsonl.gz, a folder of them, or one in BEIR's layout.")
]
Groups = Annotated[Path, typer.Argument(exists=True, help="What `winnow mine` wrote, or a folder of it.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to make for the model; it must not exist.")]


def taking(kind: type[Settings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a flag for every setting, with the setting's own words."""
    hints = get_type_hints(kind, include_extras=True)
    flags = [
        Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=_flag(hints[each.name]))
        for each in fields(kind)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != "settings"]

        @wraps(command)
        def run(**given: Any) -> None:
            settings = kind(**{each.name: given.pop(each.name) for each in flags})
            command(**given, settings=_as_served(settings))

        vars(run)["__signature__"] = Signature([*own, *flags])
        return run

    return decorate


def _as_served(settings: Settings) -> Settings:
    """With the prompts that the service is asked to use, where its encoder is meant and nothing else is said."""
    if not isinstance(settings, Prompted):
        return settings
    name = settings.base if isinstance(settings, RunSettings) else settings.encoder
    served: dict[str, Any] = {f"{role}_prompt": text for role, text in read_settings().prompts.get(name, {}).items()}
    return replace(settings, **{each: text for each, text in served.items() if getattr(settings, each) is None})


def _flag(hint: Any) -> Any:
    (words,) = hint.__metadata__
    return Annotated[hint.__origin__, typer.Option(help=words)]


@taking(EncoderSettings)
def train_encoder(pairs: Pairs, output: Output, *, settings: EncoderSettings) -> None:
    """Fine-tune an encoder on pairs of queries and passages that answer them.

    A line has `query` and `positive`, and may have `title`, `source` and `negatives` (texts that do not answer). What
    `winnow mine` writes will do as well, and is better: its negatives are hard. Of a folder in BEIR's layout,
    qrels/train.tsv is trained on.

    Some queries are held out. The model is judged by them before, after each epoch, and at the end, and its best state
    is kept. Interrupted, the command goes on where it stopped when it is run again: until it ends, its work is in
    OUTPUT.partial.

    \b
    winnow train encoder pairs.jsonl --output my-encoder
    winnow train encoder groups.jsonl --output my-encoder --epochs 2 --minutes 60
    winnow serve --encoder my-encoder
    """
    with at_work() as screen:
        from models.training.encoder import train_encoder as train

        report = train(pairs, output, settings, screen)
    _print_report(report, f"winnow serve --encoder {output}")


@taking(HeadSettings)
def train_head(pairs: Pairs, output: Output, *, settings: HeadSettings) -> None:
    """Teach an encoder to say the most in its first numbers, so that vectors may be cut.

    Two small layers are put behind the encoder and fitted to the vectors that it makes of the pairs: the first 64, 128,
    256 of the new numbers shall rank passages as all of the old ones did. All of the new ones together do so too. The
    encoder itself stays as it is, so this takes minutes, most of them to embed the pairs.

    \b
    winnow train head pairs.jsonl --base my-encoder --output my-encoder-to-cut
    winnow evaluate DATASET --encoder my-encoder-to-cut --compare dims=128
    """
    with at_work() as screen:
        from models.training.head import train_head as train

        report = train(pairs, output, settings, screen)
    _print_report(report, f"winnow serve --encoder {output}")


@taking(RerankerSettings)
def train_reranker(groups: Groups, output: Output, *, settings: RerankerSettings) -> None:
    """Train a reranker on mined groups, as a correction to the first stage.

    The first stage's scores are part of what is trained, so that the model learns what they leave undone; their weights
    are written beside it, in blend.json. Interrupted, the command goes on where it stopped when it is run again.

    \b
    winnow mine corpus.jsonl pairs.jsonl --output groups.jsonl
    winnow train reranker groups.jsonl --output my-reranker
    winnow serve --reranker my-reranker
    """
    with at_work() as screen:
        from models.training.reranker import train_reranker as train

        report = train(groups, output, settings, screen)
    _print_report(report, f"winnow serve --reranker {output}")


@taking(BlendSettings)
def train_blend(groups: Groups, output: Output, *, settings: BlendSettings) -> None:
    """Copy a reranker with the blend that suits another encoder.

    The blend says how much the first stage's scores weigh beside the reranker's: cosine, BM25 share and, where the
    encoder compares token by token, what comes of that. It is fitted on the groups that the reranker's training held
    out, so give the same groups, --held-out, --apart and --seed.

    \b
    winnow train blend groups.jsonl --encoder my-encoder --reranker my-reranker --output my-reranker-blended
    """
    with at_work() as screen:
        from models.training.blend import blend_file

        blends = blend_file(groups, output, settings, screen)
    _print(f"To one logit: {_weights(blends.dense)}; in hybrid searches {_weights(blends.hybrid)}.")
    _print(f"Written to {output}. Use it: winnow serve --reranker {output}")


def _weights(blend: Blend) -> str:
    named = {"cosine": blend.dense, "BM25 share": blend.lexical, "tokens": blend.late}
    return ", ".join(f"{name} {weight:.2f}" for name, weight in named.items() if weight)


@taking(RoundingSettings)
def train_rounding(groups: Groups, output: Output, *, settings: RoundingSettings) -> None:
    """Copy a reranker with what makes it faster in 8 bits, and what they cost it.

    Some passages are read to see in what ranges its layers meet numbers; with these known beforehand, a CPU computes
    in bytes throughout. What that changes is measured on groups that the reranker's training held out, so give the same
    groups, --held-out, --apart and --seed. A service takes 8 bits unasked where they cost next to nothing and are
    faster. `winnow train reranker` does all this by itself.

    \b
    winnow train rounding groups.jsonl --reranker my-reranker --output my-reranker-rounded
    winnow serve --reranker my-reranker-rounded
    """
    with at_work() as screen:
        from models.training.rounding import rounding_file

        rounding_file(groups, output, settings, screen)
    _print(f"Written to {output}. Use it: winnow serve --reranker {output}")


@taking(LateSettings)
def train_late(
    texts: Annotated[
        Path,
        typer.Argument(exists=True, help="A corpus or pairs: .jsonl, .jsonl.gz, a folder, or one in BEIR's layout."),
    ],
    output: Output,
    *,
    settings: LateSettings,
) -> None:
    """Copy an encoder so that it also compares token by token (late interaction).

    Of each token some numbers are kept with the chunk, from an earlier layer of the pass that makes its vector. Before
    the reranker reads any, candidates are then put in order by what of the query's tokens they have. Nothing is
    trained: the texts show along which directions tokens differ most, and which tokens are rare. They are read behind
    the encoder's prompt, which the copy keeps, be it a card's or given here.

    \b
    winnow train late corpus.jsonl --encoder my-encoder --output my-late-encoder
    winnow evaluate DATASET --encoder my-late-encoder
    """
    with at_work() as screen:
        from models.training.late import late_file

        found = late_file(texts, output, settings, screen)
    _print(f"{found.told()} Written to {output}. Use it: winnow serve --encoder {output}")


@taking(MiningSettings)
def mine(
    corpus: Annotated[
        Path,
        typer.Argument(exists=True, help="Passages: .jsonl, .jsonl.gz, a folder of them, or one in BEIR's layout."),
    ],
    pairs: Pairs,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, of JSON lines; it must not exist.")],
    *,
    settings: MiningSettings,
) -> None:
    """Find passages that look like answers and are not: hard negatives, for both trainings.

    A line of the corpus has `_id` (or `id`), `title` and `text`; with a `source` it is drawn for that source's pairs
    alone. The pairs' own passages belong to the pool as well. Candidates are the best of it by the encoder and the best
    by BM25, less what is known to answer the query and what is likely to: passages that outscore the answer, or say the
    same. Run again after an interruption, the command need not embed again what it had embedded.

    \b
    winnow mine corpus.jsonl pairs.jsonl --output groups.jsonl
    winnow mine corpus.jsonl.gz pairs/ --encoder my-encoder --margin 0 --output groups.jsonl
    """
    with at_work() as screen:
        from models.training.mine import mine_file

        tally = mine_file(corpus, pairs, output, settings, screen)
    refused = ", ".join(f"{count:,} {REFUSALS[why]}" for why, count in tally.refused.items())
    _print(f"{tally.groups:,} groups with {tally.negatives / max(tally.groups, 1):.1f} negatives each, in {output}.")
    _print(f"Candidates left out: {refused}. Pairs for which no negative was left: {tally.without:,}.")


REFUSALS = {"answers": "known answers", "margin": "that outscore the answer", "twin": "that say the same as it"}


class Screen:
    """Bars where somebody watches, and lines everywhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.bars = Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def say(self, sentence: str) -> None:
        stderr.print(escape(sentence), soft_wrap=True)

    def advance(self, what: str, done: int, total: int, note: str = "") -> None:
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(escape(what), total=total, note="")
        self.bars.update(self._tasks[what], completed=done, total=total, note=escape(note))


@contextmanager
def at_work() -> Iterator[Screen]:
    """A screen to watch, and a sentence for whatever can go wrong."""
    screen = Screen()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with screen.bars:
            _hush()
            yield screen
    except Interrupted as stop:
        raise Failure(str(stop), INTERRUPTED) from stop
    except KeyboardInterrupt:
        raise Failure("Stopped. Run the same command again to go on.", INTERRUPTED) from None
    except (TrainingError, ModelError) as error:
        raise Failure(str(error), UNUSABLE) from error
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise Failure(
            f"{error.name} is not installed: pip install -c constraints.txt -e '.[train]'", UNUSABLE
        ) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'A file'} can't be read or written: {error.strerror}.", UNUSABLE) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _hush() -> None:
    """The libraries' own bars and advice would stand between ours."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # likewise


def _print_report(report: Report, use: str) -> None:
    if report.before:
        table = Table(box=SIMPLE, pad_edge=False)
        table.add_column("held-out queries")
        for name in ("before", "after", "difference"):
            table.add_column(name, justify="right")
        for name, before in report.before.items():
            after = report.after[name]
            table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
        Console(highlight=False).print(table)
    if not report.helped:
        stderr.print("[yellow]Training did not help on the held-out queries: keep the model you had.[/]")
    _print(f"{report.fitted.told(report.machine)} Written to {report.output}, with its card. Use it: {use}")


def _print(sentence: str) -> None:
    Console(highlight=False).print(escape(sentence), soft_wrap=True)
