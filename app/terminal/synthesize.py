"""`winnow synthesize`: a job is priced and agreed to, run, and its harvest written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.terminal import synthesize_report as report
from app.terminal.client import REFUSED, UNREACHABLE, UNUSABLE, Failure, stderr
from app.terminal.synthesize_job import HELD_OUT, KEY, Job, Wanted, prepare
from models.synthesis.ask import Asking
from models.synthesis.chat import open_chat
from models.synthesis.corpus import is_held_out
from models.synthesis.cost import estimate
from models.synthesis.harvest import Asked, Harvest, harvest, write_dataset, write_failed, write_pairs
from models.synthesis.types import Stop, Unreachable, Unusable
from models.training.errors import TrainingError
from models.training.pairs import Passage

if TYPE_CHECKING:
    from models.synthesis.found import RoundTrip

INTERRUPTED = 130
SAMPLE_PROMPTS = 3


def synthesize(
    context: typer.Context,
    corpus: Annotated[Path, typer.Argument(exists=True, help="Passages: .jsonl, .jsonl.gz, or a folder of them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Training pairs to write, a .jsonl file.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Evaluation set to write, a folder in BEIR's layout for `winnow evaluate`.")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="Share of passages kept for the dataset, of both.", show_default=str(HELD_OUT)
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(envvar="OPENAI_BASE_URL", help="Address of an OpenAI-compatible endpoint.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The chat model's name, as the server has it.")] = "",
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the API key.")] = KEY,
    passages: Annotated[int | None, typer.Option(min=1, help="Passages to sample.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(help="Decides which passages are sampled and held out.")] = 7,
    per_passage: Annotated[int, typer.Option(min=1, max=20, help="Questions to ask for with each passage.")] = 2,
    prompt: Annotated[
        Path | None,
        typer.Option(exists=True, help="Own prompt; {text} {title} {count} {styles} {examples} are filled."),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(exists=True, help="Queries of your users, one a line, to be imitated.")
    ] = None,
    passage_chars: Annotated[int, typer.Option(min=100, help="Characters of a passage to show the model.")] = 8000,
    options: Annotated[
        str | None, typer.Option(metavar="JSON", help="Further fields of each request, as in the example.")
    ] = None,
    keep_if_found: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Keep a question if an encoder finds its passage in the top K."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="That encoder: embedded, a folder, or a hub name.")] = "embedded",
    requests_per_minute: Annotated[float | None, typer.Option(min=0.01, help="Rate limit.")] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(min=1, help="Rate limit; prompts and answers together.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests under way at once.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that an answer may take.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, max=20, help="Further attempts when the server is busy.")] = 5,
    price_in: Annotated[float | None, typer.Option(min=0, help="Price of a million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Price of a million answer tokens.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Stop before the answers cost more, all runs together.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without a question.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show estimate and prompts; send nothing.")] = False,
) -> None:
    """Let a chat model write questions for your passages: pairs to train with, or a dataset to evaluate with.

    A line of the corpus has _id (or id), title and text. The address comes from --url or OPENAI_BASE_URL, the key from
    the environment alone. Before anything is sent, the command says what it will take, and asks.

    Every answer is kept at once, in OUTPUT.answers (DATASET/synthesis.answers). Running the same command again resumes;
    a larger --passages extends. Pairs and dataset are written anew from all answers at the end of each run, so edit
    copies of them. Passages that failed are listed in OUTPUT.failed and asked again by the next run.

    \b
    winnow synthesize corpus.jsonl -o pairs.jsonl --url http://localhost:11434/v1 --model llama3.1
    winnow synthesize corpus.jsonl --dataset evaluation --passages 300 --keep-if-found 20 --model llama3.1
    winnow synthesize corpus.jsonl -o pairs.jsonl --dataset evaluation --model gpt-5-mini --price-in 0.25 --price-out 2
    winnow synthesize corpus.jsonl -o pairs.jsonl --model llama3.1 --options '{"temperature": 0.7}' --dry-run
    """
    with as_failures():
        _run(prepare(Wanted(**context.params)))


@contextmanager
def as_failures() -> Iterator[None]:
    """Let what a user can mend end the command with a sentence."""
    try:
        yield
    except (Unusable, TrainingError) as error:
        raise Failure(str(error), UNUSABLE) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'A file'} can't be read or written: {error.strerror}.", UNUSABLE) from error
    except KeyboardInterrupt:
        raise Failure("Stopped. Run the same command again to resume.", INTERRUPTED) from None


def _run(job: Job) -> None:
    waiting = job.waiting
    _print_estimate(job, waiting)
    if job.wanted.dry_run:
        for passage in islice(waiting or job.passages, SAMPLE_PROMPTS):
            report.print_prompt(passage, job.prompt.fill(passage))
        return
    if waiting and not job.wanted.yes:
        _confirm()
    ended = _ask(job)
    _write(job, broken_off=ended is not None and ended.code != REFUSED)
    if ended:
        raise ended


def _print_estimate(job: Job, waiting: list[Passage]) -> None:
    will = estimate(map(job.prompt.fill, waiting), job.prompt.count, job.pace)
    facts = {
        "passages": report.to_ask(waiting, len(job.passages), job.prompt.longest),
        "endpoint": report.place(job.endpoint),
        "requests": f"{will.requests:,}, and more where the server is busy or answers badly",
        "tokens": report.guessed(will.usage),
        "cost": report.money(job.meter.prices.cost(will.usage) if job.meter.prices else None),
        "time": report.duration(will.seconds, job.wanted.concurrency),
    }
    stderr.print(report.grid(facts if waiting else {"passages": facts["passages"]}))


def _confirm() -> None:
    try:
        agreed = typer.confirm("Start?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise Failure("Nothing was sent. Add --yes to start without this question.", UNUSABLE)


def _ask(job: Job) -> Failure | None:
    """Ask for all that is missing; says what ended it early, if anything did."""
    try:
        with job.journal.writing():
            job.meter.spent = job.journal.spent  # by another run too, since the question was put
            stopped = asyncio.run(_converse(job, job.waiting))  # which may be fewer since the question was put
    except KeyboardInterrupt:
        return _ended(job, "Stopped.", INTERRUPTED)
    except Stop as stop:
        return _ended(job, str(stop), UNREACHABLE if isinstance(stop, Unreachable) else UNUSABLE)
    if stopped:
        return _ended(job, stopped, REFUSED)
    if failed := len(job.failed):
        told = f"{failed:,} passages failed, see {job.failed_file}. Run the same command to ask about them again."
        return Failure(told, REFUSED)
    return None


def _ended(job: Job, why: str, code: int) -> Failure:
    kept = f"{len(job.journal.answered):,} answers are kept in {job.journal.path}. " if job.journal.answered else ""
    return Failure(f"{why}\n{kept}Run the same command again to resume.", code)


async def _converse(job: Job, waiting: list[Passage]) -> str:
    with _bar("asking", len(waiting)) as move:
        async with open_chat(job.endpoint, job.pace, _warn) as chat:
            asking = Asking(chat, job.prompt, job.journal, job.meter, lambda: move(1, report.so_far(job.meter)))
            await asking.run(waiting, job.wanted.concurrency)
    if asking.uncounted:
        _warn(f"{asking.uncounted:,} answers came without a count of tokens: theirs are guessed.")
    return asking.stopped


def _write(job: Job, *, broken_off: bool) -> None:
    """Make everything anew from the answers. Where the run was broken off, nobody waits for an encoder."""
    answered, wanted = job.journal.answered, job.wanted
    write_failed(job.failed, job.failed_file)
    if not answered or (broken_off and wanted.keep_if_found):
        return
    found = harvest(job.passages, answered, job.prompt.count)
    checked = _round_trip(job, found.kept, wanted.keep_if_found) if wanted.keep_if_found else None
    sides: dict[bool, list[Asked]] = {True: [], False: []}
    for each in checked.found if checked else found.kept:
        sides[is_held_out(each.passage, wanted.share, wanted.seed)].append(each)
    if wanted.output:
        write_pairs(sides[False], wanted.model, wanted.output)
    if wanted.dataset:
        made = {**job.journal.settings, "--keep-if-found": wanted.keep_if_found, "--encoder": wanted.encoder}
        write_dataset(sides[True], job.corpus, made, wanted.dataset)
    _print_summary(job, found, checked, sides)


def _round_trip(job: Job, asked: list[Asked], k: int) -> RoundTrip:
    from models.catalog import open_encoder  # with numpy, which most commands need not pay
    from models.synthesis.found import round_trip
    from models.types import ModelError

    try:
        with stderr.status("loading the encoder") as status:
            encoder = open_encoder(job.wanted.encoder)
            return round_trip(asked, job.corpus, encoder, k, lambda read: status.update(f"{read:,} passages embedded"))
    except ModelError as error:
        raise Unusable(str(error)) from error


def _print_summary(job: Job, found: Harvest, checked: RoundTrip | None, sides: Mapping[bool, list[Asked]]) -> None:
    wanted = job.wanted
    facts = {
        "passages": report.answered(len(job.passages), len(job.passages) - len(job.waiting), len(job.failed)),
        "questions": report.weighed(found),
        "round trip": report.trip(checked, wanted.keep_if_found or 0) if checked else "",
        "styles": report.styles([*sides[False], *sides[True]]),
        "tokens": report.spent(job.meter),
        str(wanted.output): f"{len(sides[False]):,} training pairs" if wanted.output else "",
        str(wanted.dataset): f"{len(sides[True]):,} queries" if wanted.dataset else "",
        "next": report.following(wanted.output, wanted.dataset),
    }
    Console(highlight=False).print(report.grid(facts))


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar with what is left and a note; only where somebody watches."""
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal or not total) as bars:
        task = bars.add_task(name, total=total, note="")
        yield lambda step, note: bars.update(task, advance=step, note=note)


def _warn(told: str) -> None:
    stderr.print(f"[yellow]{escape(told)}[/]", soft_wrap=True)
