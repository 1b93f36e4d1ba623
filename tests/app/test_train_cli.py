"""`winnow mine` and `winnow train`, as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from models.catalog import open_encoder, open_reranker
from tests.models.tiny import TEXTS, save_encoder

PAIRS = [{"query": f"{text[:20]} {at}", "positive": f"{text} {at}"} for at in range(8) for text in TEXTS]
QUICK = ["--steps=2", "--batch=4", "--device=cpu", "--tokens=32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, pairs, a corpus and what was mined from them."""
    folder = tmp_path_factory.mktemp("training")
    save_encoder("bert", folder / "base")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": f"{text} or not"}) + "\n" for text in TEXTS))
    mined = _winnow(
        "mine", folder / "corpus.jsonl", folder / "pairs.jsonl", "-o", folder / "groups.jsonl", *_by(folder)
    )
    assert mined.exit_code == 0, mined.output
    return folder


def test_from_pairs_to_models_that_serve(place: Path, tmp_path: Path) -> None:
    groups, encoder, reranker, blended = (place / "groups.jsonl", *(tmp_path / name for name in "erb"))
    base = f"--base={place / 'base'}"

    first = _winnow("train", "encoder", groups, "-o", encoder, base, *QUICK)
    second = _winnow("train", "reranker", groups, "-o", reranker, base, *QUICK)
    third = _winnow("train", "blend", groups, "-o", blended, f"--reranker={reranker}", f"--encoder={encoder}")

    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 0, 0), first.output + second.output
    assert "ndcg@10 24" in first.stdout
    assert f"winnow serve --encoder {encoder}" in _flat(first.stdout)
    assert "ndcg@10 with first stage" in second.stdout
    assert "cosine" in third.stdout
    assert open_encoder(str(encoder)).dimensions == 24
    assert open_reranker(str(blended)).blends != open_reranker(str(reranker)).blends


def test_an_encoder_that_compares_tokens_and_one_trained_from_it(place: Path, tmp_path: Path) -> None:
    compares, trained, headed = (tmp_path / name for name in ("late", "trained", "headed"))
    first = _winnow("train", "late", place / "corpus.jsonl", "-o", compares, f"--encoder={place / 'base'}", "--width=8")
    assert first.exit_code == 0, first.output
    assert "Layer 1, 8 numbers a token, which hold" in _flat(first.stdout)
    assert f"winnow serve --encoder {compares}" in _flat(first.stdout)

    second = _winnow("train", "encoder", place / "groups.jsonl", "-o", trained, f"--base={compares}", *QUICK)
    assert second.exit_code == 0, second.output
    for folder in (compares, trained):
        late = open_encoder(str(folder)).late
        assert late is not None
        assert late.width == 8

    twice = _winnow("train", "late", place / "corpus.jsonl", "-o", headed, f"--encoder={compares}", "--width=4")
    assert twice.exit_code == 0, twice.output
    assert getattr(open_encoder(str(headed)).late, "width", 0) == 4


def test_what_was_mined_and_what_was_left_out_is_told(place: Path, tmp_path: Path) -> None:
    result = _winnow("mine", place / "corpus.jsonl", place / "pairs.jsonl", "-o", tmp_path / "g.jsonl", *_by(place))

    assert "40 pairs of 40 queries: pairs 40" in result.stderr
    assert "groups with" in result.stdout
    assert "that outscore the answer" in result.stdout


def test_the_prompts_of_the_service_are_those_of_the_training(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(place / "base")
    monkeypatch.setenv("WINNOW_ENCODER", base)
    monkeypatch.setenv("WINNOW_ENCODER_QUERY_PROMPT", "the river ")
    monkeypatch.setenv("WINNOW_ENCODER_DOCUMENT_PROMPT", "the bank ")
    output = tmp_path / "trained"
    said = ["--document-prompt=a city ", *QUICK]
    done = _winnow("train", "encoder", place / "groups.jsonl", "-o", output, f"--base={base}", *said)

    assert done.exit_code == 0, done.output
    assert open_encoder(str(output)).prompts == {"query": "the river ", "document": "a city "}


def test_an_existing_output_is_refused(place: Path, tmp_path: Path) -> None:
    result = _winnow("train", "encoder", place / "groups.jsonl", "-o", tmp_path, f"--base={place / 'base'}")

    assert result.exit_code == 2
    assert "exists: name a new one or remove it" in _flat(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "reranker", "pairs.jsonl"], "Run `winnow mine` first"),
        (["train", "encoder", "groups.jsonl", "--base=nowhere"], "There is no encoder 'nowhere'"),
        (["train", "encoder", "groups.jsonl", "--take=faq"], "must look like"),
        (["train", "encoder", "groups.jsonl", "--batch=0"], "--batch must be above 0"),
        (["train", "encoder", "groups.jsonl", "--device=abacus"], "choose `auto` or `cpu`"),
        (["train", "blend", "pairs.jsonl"], "Run `winnow mine` first"),
        (["mine", "corpus.jsonl", "corpus.jsonl"], "no `query`"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    place: Path, tmp_path: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)

    result = _winnow(*arguments, "-o", tmp_path / "output")

    assert result.exit_code == 2, result.output
    assert told in _flat(result.stderr)
    assert "Traceback" not in result.output


def test_every_setting_is_a_flag_with_its_words() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["train", "encoder", "--help"])

    assert "--held-out" in result.stdout
    assert "How strongly whole vectors are held near the base model's" in result.stdout


def test_stopped_from_outside_it_says_how_to_go_on(place: Path, tmp_path: Path) -> None:
    """In a process of its own, with as many steps as nobody waits for."""
    arguments = ["train", "encoder", str(place / "groups.jsonl"), "-o", str(tmp_path / "encoder")]
    command = [sys.executable, "-m", "app.cli", *arguments, f"--base={place / 'base'}", *QUICK, "--steps=100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("step 1 "):
                break
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "Run the same command again to go on from there" in _flat(told)
    assert not (tmp_path / "encoder").exists()
    assert list((tmp_path / "encoder.partial" / "checkpoints").glob("checkpoint-*"))


def _by(folder: Path) -> list[str]:
    return [f"--encoder={folder / 'base'}", "--device=cpu", "--margin=2", "--twin=2"]


def _winnow(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _flat(text: str) -> str:
    return " ".join(text.split())
