"""What `winnow synthesize` was asked for, checked as far as it can be before the first request."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.terminal.client import UNUSABLE, Failure, stderr
from models.synthesis.chat import Endpoint
from models.synthesis.corpus import Corpus, fingerprint, is_held_out, open_corpus, select
from models.synthesis.cost import Meter, Prices
from models.synthesis.journal import Journal, Record
from models.synthesis.pace import Pace
from models.synthesis.prompt import Prompt, read_examples, read_template
from models.synthesis.types import Unusable
from models.training.lines import stem
from models.training.pairs import Passage

KEY = "OPENAI_API_KEY"
HELD_OUT = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the command line says."""

    corpus: Path
    output: Path | None
    dataset: Path | None
    held_out: float | None
    url: str | None
    model: str
    api_key_env: str
    passages: int | None
    seed: int
    per_passage: int
    prompt: Path | None
    examples: Path | None
    passage_chars: int
    options: str | None
    keep_if_found: int | None
    encoder: str
    requests_per_minute: float | None
    tokens_per_minute: float | None
    concurrency: int
    timeout: float
    retries: int
    price_in: float | None
    price_out: float | None
    max_cost: float | None
    yes: bool
    dry_run: bool

    @property
    def share(self) -> float:
        """How much of the passages is for evaluation: without pairs all of it, without a dataset nothing."""
        if self.output is None or self.dataset is None:
            return float(self.output is None)
        return HELD_OUT if self.held_out is None else self.held_out


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, checked as far as it can be before the first request."""

    wanted: Wanted
    endpoint: Endpoint
    corpus: Corpus
    passages: list[Passage]
    prompt: Prompt
    pace: Pace
    journal: Journal
    meter: Meter

    @property
    def failed(self) -> list[Record]:
        """The passages of this job that failed and are not answered yet."""
        keys = map(fingerprint, self.passages)
        return [self.journal.failed[key] for key in keys if key in self.journal.failed]

    @property
    def waiting(self) -> list[Passage]:
        """Passages without an answer; those that failed before come last."""
        missing = [each for each in self.passages if fingerprint(each) not in self.journal.answered]
        return sorted(missing, key=lambda each: fingerprint(each) in self.journal.failed)

    @property
    def failed_file(self) -> Path:
        return self.journal.path.with_suffix(".failed")


def prepare(wanted: Wanted) -> Job:
    """Read what there is and refuse what can't work."""
    _check(wanted)
    endpoint = _endpoint(wanted)
    examples = read_examples(wanted.examples)
    prompt = Prompt(read_template(wanted.prompt, examples), wanted.per_passage, examples, wanted.passage_chars)
    journal = Journal(_journal_file(wanted), _settings(wanted, prompt))
    journal.read()
    _check_places(wanted, journal)
    source = stem(wanted.output or wanted.corpus)
    corpus = open_corpus(wanted.corpus, source, in_table=wanted.dataset is not None)
    with stderr.status("reading the corpus"):
        passages = select(corpus, wanted.passages, wanted.seed)
    _check_sides(wanted, passages)
    pace = Pace(wanted.requests_per_minute, wanted.tokens_per_minute)
    meter = Meter(journal.spent, _prices(wanted), wanted.max_cost)
    return Job(wanted, endpoint, corpus, passages, prompt, pace, journal, meter)


def _check(wanted: Wanted) -> None:
    output, both = wanted.output, bool(wanted.output and wanted.dataset)
    priced = wanted.price_in is not None, wanted.price_out is not None
    key_missing = wanted.api_key_env != KEY and not os.environ.get(wanted.api_key_env, "").strip()
    faults = (
        (not (output or wanted.dataset), "Name what to write: --output pairs.jsonl, --dataset FOLDER, or both."),
        (output and output.suffix != ".jsonl", f"{output} is not named .jsonl, which it will be: name it so."),
        (wanted.held_out and not both, "--held-out shares passages between --output and --dataset: name both."),
        (not wanted.url, "Name the endpoint by --url or OPENAI_BASE_URL, for example http://localhost:11434/v1."),
        (not wanted.model, "Name the chat model by --model, as the server has it."),
        (key_missing, f"{wanted.api_key_env} is not set: put the key into it, or leave --api-key-env out."),
        (any(priced) and not all(priced), "Give both --price-in and --price-out, for a million tokens each."),
        (wanted.max_cost is not None and not any(priced), "--max-cost needs --price-in and --price-out."),
    )
    for wrong, told in faults:
        if wrong:
            raise Failure(told, UNUSABLE)


def _endpoint(wanted: Wanted) -> Endpoint:
    return Endpoint(
        url=wanted.url or "",
        model=wanted.model,
        key=os.environ.get(wanted.api_key_env, "").strip(),
        key_from=wanted.api_key_env,
        options=_parsed(wanted.options),
        timeout=wanted.timeout,
        retries=wanted.retries,
    )


def _parsed(options: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(options or "{}")
    except orjson.JSONDecodeError as error:
        raise Unusable(f"--options is no JSON: {error}. It looks like '{{\"temperature\": 0.7}}'.") from error
    if not isinstance(found, dict) or found.keys() & {"messages", "model", "stream", "n"}:
        raise Unusable("--options is an object without model, messages, stream and n: '{\"temperature\": 0.7}'.")
    return found


def _prices(wanted: Wanted) -> Prices | None:
    if wanted.price_in is None or wanted.price_out is None:
        return None
    return Prices(wanted.price_in, wanted.price_out)


def _journal_file(wanted: Wanted) -> Path:
    """Not named .jsonl: a folder of pairs is read whole by other commands, and this is none of them."""
    if wanted.output:
        return wanted.output.with_name(f"{wanted.output.name}.answers")
    assert wanted.dataset is not None
    return wanted.dataset / "synthesis.answers"


def _settings(wanted: Wanted, prompt: Prompt) -> dict[str, Any]:
    """What all answers of one journal have in common. The share is among it lest a passage ever change sides."""
    return {
        "corpus": wanted.corpus.resolve().name,
        "--model": wanted.model,
        "--per-passage": wanted.per_passage,
        "prompt or examples": prompt.fingerprint,
        "--passage-chars": wanted.passage_chars,
        "--options": _parsed(wanted.options),
        "--seed": wanted.seed,
        "share of the dataset": wanted.share,
    }


def _check_places(wanted: Wanted, journal: Journal) -> None:
    """Nothing of somebody else's is overwritten, and nothing of ours is read as a passage."""
    if wanted.output and wanted.output.exists() and not journal.path.exists():
        raise Unusable(f"{wanted.output} exists and no run of this command wrote it: name another output.")
    folder = wanted.dataset
    if folder and folder.exists() and any(folder.iterdir()) and not any(folder.glob("synthesis.*")):
        raise Unusable(f"{folder} is not empty and no run of this command wrote it: name another folder.")
    if wanted.output and wanted.output.resolve().parent == wanted.corpus.resolve():
        raise Unusable(f"{wanted.output} lies among the passages and would be read as one: write it elsewhere.")


def _check_sides(wanted: Wanted, passages: list[Passage]) -> None:
    if not passages:
        raise Unusable(f"{wanted.corpus} holds no passage with a text.")
    sides = {is_held_out(each, wanted.share, wanted.seed) for each in passages}
    if wanted.output and wanted.dataset and len(sides) < 2:
        rest = "training" if True in sides else "the dataset"
        raise Unusable(f"Of {len(passages):,} passages none falls to {rest}: take more, or another --held-out.")
