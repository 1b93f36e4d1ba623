"""`winnow models` as a person meets it: a shelf, a card, a folder, and names that are none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from tests.models import tiny

DEAR = ("torch", "transformers", "sentence_transformers", "huggingface_hub")


def models(*arguments: object, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"} | environment).invoke(app, ["models", *map(str, arguments)])


def told(*arguments: object) -> str:
    """What it prints, without the breaks of its lines."""
    result = models(*arguments)
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


def facts(*arguments: object) -> list[dict[str, object]]:
    result = models(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    return found if isinstance(found, list) else [found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_encoder("xlm-roberta", tmp_path_factory.mktemp("models") / "mine")


def test_the_shelf_has_what_one_chooses_by() -> None:
    shelf = told()
    assert "intfloat/multilingual-e5-small 384 512 ~100 mit 118 M" in shelf
    assert "nomic-ai/nomic-embed-text-v1.5 768 8,192 en apache-2.0 512, 256, 137 M 128, 64" in shelf
    assert "Alibaba-NLP/gte-base-en-v1.5 ✗" in shelf
    assert "google/embeddinggemma-300m *" in shelf
    assert [kind for kind in ("encoder", "cross-encoder", "late-interaction") if f"{kind} model" in shelf]


def test_the_shelf_fits_a_terminal_of_eighty_columns() -> None:
    lines = models(COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.rstrip().endswith("118 M") for line in lines)


def test_kind_and_language_narrow_it() -> None:
    late = facts("--kind", "late-interaction", "--language", "DE")
    assert [each["name"] for each in late] == ["jinaai/jina-colbert-v2"]
    assert "BAAI/bge-m3" in told("--language", "de")
    assert "BAAI/bge-small-en-v1.5" not in told("--language", "de")
    assert "No card fits" in told("--kind", "late-interaction", "--language", "qq")


def test_sparse_encoders_are_listed_explained_and_read_off(tmp_path: Path) -> None:
    listed = facts("--kind", "sparse")
    assert {"naver/splade-v3", "ibm-granite/granite-embedding-30m-sparse"} <= {each["name"] for each in listed}
    assert "winnow serve --sparse ibm-granite/granite-embedding-30m-sparse" in told(
        "ibm-granite/granite-embedding-30m-sparse"
    )
    assert "refused, since its weights are pickled; take opensearch-project/" in told("naver/splade-v3")
    (reading,) = facts(tiny.save_sparse(tmp_path / "mine", looks_up=True))
    assert (reading["kind"], reading["dimensions"]) == ("sparse encoder", None)


def test_a_card_is_explained_with_its_prompts_and_how_to_serve_it() -> None:
    card = told("intfloat/e5-small-v2")
    assert 'query prompt "query: "' in card
    assert 'document prompt "passage: "' in card
    assert "winnow serve --encoder intfloat/e5-small-v2" in card
    assert "WINNOW_CHUNK_TOKENS" not in card


def test_a_model_that_reads_less_than_the_default_chunk_is_served_with_shorter_ones() -> None:
    assert "WINNOW_CHUNK_TOKENS=96 winnow serve --encoder" in told(
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    )
    assert "WINNOW_QUERY_RESERVE=8 winnow serve --reranker" in told("lightonai/GTE-ModernColBERT-v1")


def test_an_instruction_is_shown_filled_in_and_how_to_give_another() -> None:
    card = told("Qwen/Qwen3-Embedding-0.6B")
    assert "retrieve relevant passages that answer the query\\nQuery:" in card
    assert 'encoder_query_prompt = "Instruct: …\\nQuery:" in winnow.toml' in card


def test_prompts_that_the_settings_ask_for_are_shown_in_force(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_ENCODER_QUERY_PROMPT", "Represent: ")
    for name in ("intfloat/e5-small-v2", str(folder)):
        (before,) = facts(name)
        monkeypatch.setenv("WINNOW_ENCODER", name)
        (after,) = facts(name)
        assert 'query prompt "Represent: "' in told(name)
        assert after["prompts"] == {**before["prompts"], "query": "Represent: "}  # type: ignore[dict-item]


def test_a_refused_model_names_another_and_no_command() -> None:
    card = told("nomic-ai/nomic-embed-text-v2-moe")
    assert "refused, since it needs code of its own, which is never run; take intfloat/multilingual-e5-base" in card
    assert "winnow serve" not in card


def test_a_model_with_terms_says_so() -> None:
    assert "must be agreed to on the hub" in told("google/embeddinggemma-300m")


def test_a_card_is_told_to_programs_whole() -> None:
    (card,) = facts("google/embeddinggemma-300m")
    assert card["prompts"] == {"query": "task: search result | query: ", "document": "title: none | text: "}
    assert (card["matryoshka"], card["gated"], card["opens"]) == ([512, 256, 128], True, True)
    assert len(facts()) > 60


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("BAAI/bge-smal-en-v1.5", "Is one of these meant? BAAI/bge-small-en-v1.5"),
        ("e5-base", "intfloat/e5-base-v2"),
        ("qqqq", "`winnow models` lists those that have one."),
    ],
)
def test_a_name_without_a_card_finds_what_is_near(name: str, said: str) -> None:
    result = models(name)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_folder_is_read_off(folder: Path) -> None:
    (reading,) = facts(folder)
    assert (reading["kind"], reading["dimensions"]) == ("encoder", 32)
    assert reading["prompts"] == {"query": "near: ", "document": "river of: "}
    sheet = told(folder)
    assert 'query prompt "near: "' in sheet
    assert str(reading["fingerprint"]) in sheet


def test_rerankers_are_read_off_too(tmp_path: Path) -> None:
    cross, late = tiny.save_reranker("bert", tmp_path / "cross"), tiny.save_late(tmp_path / "late")
    assert [facts(each)[0]["kind"] for each in (cross, late)] == ["reranker", "reranker"]
    assert [each["kind"] for each in facts("embedded")] == ["encoder", "reranker"]


def test_a_folder_that_can_not_be_opened_says_why(folder: Path, tmp_path: Path) -> None:
    assert "is no sentence-transformers model" in models(tmp_path).stderr
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "model.safetensors").unlink()
    assert "no safetensors weights" in " ".join(models(broken).stderr.split())


def test_the_shelf_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from app.cli import app; "
        "assert CliRunner().invoke(app, ['models', 'BAAI/bge-m3']).exit_code == 0; "
        f"print([name for name in {DEAR} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
