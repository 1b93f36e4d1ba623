"""`winnow evaluate` as a person and a script meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytrec_eval
from typer.testing import CliRunner, Result

from app.cli import app
from app.settings import Settings
from app.terminal.evaluation import base
from tests.app.quality.folders import ANIMALS, put, write

Winnow = Callable[..., Result]


@pytest.fixture
def winnow(tmp_path: Path) -> Winnow:
    """Runs the command with fake models and its data in the test's folder."""

    def run(*arguments: object) -> Result:
        environment = {"WINNOW_ENCODER": "fake", "WINNOW_RERANKER": "fake", "COLUMNS": "200"}
        runner = CliRunner(env=environment | {"WINNOW_DATA_DIR": str(tmp_path / "data")})
        ran = runner.invoke(app, ["evaluate", *map(str, arguments)])
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return ran

    return run


def test_words_are_taken_as_the_settings_have_them_unless_a_flag_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WINNOW_LANGUAGE", "german")
    assert base(Settings(), {}, "50", None, rerank=True).language == "german"
    assert base(Settings(), {"language": "french"}, "50", None, rerank=True).language == "french"


def test_whether_tokens_are_compared_is_settled_in_the_collection_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WINNOW_LATE", "false")
    assert base(Settings(), {}, "50", "papers", rerank=True).late
    assert not base(Settings(), {}, "50", None, rerank=True).late


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write(tmp_path / "animals")


def rows(output: str) -> list[list[str]]:
    return [line.replace("▸", " ").split() for line in output.splitlines() if line.strip()]


def test_every_stage_is_a_row_with_its_measures(winnow: Winnow, animals: Path) -> None:
    ran = winnow(animals, "--candidates", "3")
    assert ran.exit_code == 0, ran.stderr
    assert "animals (test): 5 documents, 5 chunks, 4 queries" in ran.stdout
    names = [row[0] for row in rows(ran.stdout)]
    assert all(name in names for name in ("dense", "lexical", "fused", "dense+rerank", "dense+blend", "fused+blend"))
    assert "▸ fused+blend" in ran.stdout
    assert "4 queries are few" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_results_go_into_files(winnow: Winnow, animals: Path, tmp_path: Path) -> None:
    ran = winnow(
        animals, "--json", tmp_path / "deep" / "all.json", "--html", tmp_path / "all.html", "--run", tmp_path / "runs"
    )
    assert ran.exit_code == 0, ran.stderr
    found: dict[str, Any] = json.loads((tmp_path / "deep" / "all.json").read_bytes())
    assert (tmp_path / "all.html").read_text().lower().startswith("<!doctype html>")
    folder = tmp_path / "runs" / "animals" / "base"
    with (folder / "qrels.txt").open() as grades, (folder / "dense-blend.run").open() as answers:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(grades), {"ndcg_cut.10"})
        theirs = evaluator.evaluate(pytrec_eval.parse_run(answers))
    (arm,) = (arm for arm in found["evaluations"][0]["arms"] if arm["name"] == "dense+blend")
    values = next(measure["values"] for measure in arm["measures"] if measure["name"] == "nDCG@10")
    ids = [query["id"] for query in found["evaluations"][0]["queries"]]
    assert values == pytest.approx([theirs[name]["ndcg_cut_10"] for name in ids], abs=1e-6)


def test_a_second_run_takes_everything_from_the_cache(winnow: Winnow, animals: Path, tmp_path: Path) -> None:
    first, second = winnow(animals), winnow(animals)
    assert (tmp_path / "data" / "evaluation" / "evaluations.db").exists()
    assert "timed in an earlier run" not in first.stdout
    assert "4 timed in an earlier run" in second.stdout
    elsewhere = winnow(animals, "--cache", tmp_path / "else")
    assert "timed in an earlier run" not in elsewhere.stdout


def test_without_a_cache_nothing_is_left_behind(winnow: Winnow, animals: Path, tmp_path: Path) -> None:
    assert winnow(animals, "--no-cache").exit_code == 0
    assert not (tmp_path / "data").exists()


def test_several_datasets_have_a_mean_and_variants_are_compared(winnow: Winnow, animals: Path, tmp_path: Path) -> None:
    beasts = write(tmp_path / "beasts", answers={"q1": {"owl": 1}, "q3": {"bee": 1}})
    ran = winnow(
        animals, beasts, "--compare", "dims=2", "--compare", "language=none,title=never", "--json", tmp_path / "r.json"
    )
    assert ran.exit_code == 0, ran.stderr
    assert "beasts, dims=2 (test): 5 documents" in ran.stdout
    assert "mean over 2 datasets" in ran.stdout
    for where in ("animals", "beasts", "all datasets"):
        assert f"dims=2 against base, {where}" in ran.stdout
    found = json.loads((tmp_path / "r.json").read_bytes())
    assert [each["variant"] for each in found["evaluations"]] == 2 * ["base", "dims=2", "language=none,title=never"]
    assert found["evaluations"][2]["settings"]["title"] == "never"


def test_a_sparse_encoder_is_a_stage_of_its_own_for_all_variants_or_for_one(
    winnow: Winnow, animals: Path, tmp_path: Path
) -> None:
    every = winnow(animals, "--sparse", "fake", "--compare", "sparse_weight=2")
    assert every.exit_code == 0, every.stderr
    assert every.stdout.count("\n sparse ") >= 2
    page = tmp_path / "page.html"
    one = winnow(animals, "--compare", "sparse=fake", "--json", tmp_path / "r.json", "--html", page)
    assert one.exit_code == 0, one.stderr
    base, varied = json.loads((tmp_path / "r.json").read_bytes())["evaluations"]
    assert [arm["name"] for arm in base["arms"]][:3] == ["dense", "lexical", "fused"]
    assert [arm["name"] for arm in varied["arms"]][:4] == ["dense", "lexical", "sparse", "fused"]
    assert "sparse" in page.read_text()


def test_several_depths_draw_a_curve_and_name_the_knee(winnow: Winnow, animals: Path) -> None:
    ran = winnow(animals, "--candidates", "1,2,5")
    assert "dense+blend by candidates" in ran.stdout
    assert "◂ knee" in ran.stdout
    assert "auto, 5.0" in ran.stdout
    assert "The knee: the fewest candidates" in ran.stdout


def test_a_sample_of_queries_and_another_split_are_chosen(winnow: Winnow, animals: Path) -> None:
    put(animals / "qrels" / "dev.tsv", "q1\towl\t1\nq2\twhale\t1\nq3\tbee\t1\n")
    ran = winnow(animals, "--split", "dev", "--queries", "2", "--seed", "5")
    assert "animals (dev): 5 documents, 5 chunks, 2 queries" in ran.stdout
    assert "2 of 3 queries were drawn at random (seed 5)." in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--split", "train"], "has no judgements for the split 'train'; there are: test"),
        (["--compare", "colour=red"], "with one of encoder, reranker, sparse"),
        (["--compare", "dims=8", "--compare", "dims=8"], "Two variants have the name 'dims=8'"),
        (["--candidates", "ten"], "candidates is 'ten', which is not a whole number"),
        (["--title", "sometimes"], "choose one of first, every, never"),
        (["--language", "klingon"], "There is no language 'klingon'"),
        (["--encoder", "./nowhere"], "There is no encoder './nowhere'"),
        (["--chunk-tokens", "5000"], "is 5000; fake:64 reads at most 511"),
        (["--chunk-tokens", "0"], "--chunk-tokens"),
        (["--dims", "65"], "dims is 65, and vectors of fake have 64 numbers"),
        (["--compare", "encoder=./nowhere"], "There is no encoder './nowhere'"),
        (["--compare", "chunk_tokens=5000"], "is 5000; fake:64 reads at most 511"),
        (["--compare", "dims=65"], "dims is 65, and vectors of fake have 64 numbers"),
        (["--collection", "papers", "--encoder", "fake", "--no-rerank"], "leave out --encoder, --no-rerank"),
        (["--collection", "papers", "--candidates", "10,20"], "one number of candidates"),
        (["--collection", "papers"], "There is no data in"),
    ],
)
def test_what_can_not_be_evaluated_ends_with_a_sentence(
    winnow: Winnow, animals: Path, arguments: list[str], told: str
) -> None:
    ran = winnow(animals, *arguments)
    assert ran.exit_code == 2
    assert told in " ".join(ran.stderr.split())
    assert not ran.stdout  # before any work is done


def test_two_datasets_of_one_name_are_refused(winnow: Winnow, animals: Path, tmp_path: Path) -> None:
    ran = winnow(animals, write(tmp_path / "more" / "animals"))
    assert ran.exit_code == 2
    assert "Two datasets have the name 'animals'" in ran.stderr


def test_a_file_that_can_not_be_written_is_named(winnow: Winnow, animals: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for flag in ("--json", "--html", "--run", "--cache"):
        ran = winnow(animals, flag, tmp_path / "file" / "below")
        assert ran.exit_code == 2
        assert f"{tmp_path / 'file' / 'below'}" in ran.stderr.replace("\n", "")
        assert "can't be" in ran.stderr


@pytest.mark.parametrize("flag", ["--json", "--html"])
def test_that_a_file_can_not_be_written_is_said_before_anything_is_measured(
    winnow: Winnow, animals: Path, tmp_path: Path, flag: str
) -> None:
    ran = winnow(animals, flag, tmp_path)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "Is a directory" in ran.stderr


def test_a_collection_of_a_running_service_is_evaluated(winnow: Winnow, animals: Path, server: httpx.Client) -> None:
    documents = [{"id": name, "text": text} for name, text in ANIMALS.items()]
    server.post("/ingest", json={"documents": documents}).raise_for_status()
    ran = winnow(animals, "--collection", "default", "--url", server.base_url, "--compare", "candidates=1")
    assert ran.exit_code == 0, ran.stderr
    assert "retrieve" in [row[0] for row in rows(ran.stdout)]
    assert "candidates=1 against base, animals" in ran.stdout
    refused = winnow(animals, "--collection", "nowhere", "--url", server.base_url)
    assert refused.exit_code == 1
    assert "nowhere" in refused.stderr


def test_a_missing_extra_is_named(animals: Path, tmp_path: Path) -> None:
    """In a process that can't find the library, as if it were not installed."""
    blind = (
        "import sys, importlib.machinery as m\n"
        "class Blind(m.PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return None if name == 'ir_measures' else super().find_spec(name, path, target)\n"
        "sys.meta_path = [Blind if f is m.PathFinder else f for f in sys.meta_path]\n"
        "from app.cli import main\n"
        f"sys.argv = ['winnow', 'evaluate', {str(animals)!r}]\n"
        "main()\n"
    )
    environment = os.environ | {"WINNOW_ENCODER": "fake", "WINNOW_RERANKER": "fake", "COLUMNS": "200"}
    ran = subprocess.run([sys.executable, "-c", blind], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2, ran.stderr
    assert "This needs ir_measures" in ran.stderr
    assert "pip install -c constraints.txt -e '.[evaluate]'" in ran.stderr
    assert "Traceback" not in ran.stderr
