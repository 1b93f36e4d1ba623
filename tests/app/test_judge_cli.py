"""`winnow judge` as a person meets it: questions, documents, a file to label, a dataset."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app

SEA = "Rivers carry dissolved salts into the sea."
BREAD = "Bread rises because yeast turns sugar into gas."
FILLER = "Topic {0} has words that no question asks for."
GRADES = {"sea": "3", "bread": "2"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place to work in, with questions and documents."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINNOW_ENCODER", "fake")
    monkeypatch.setenv("WINNOW_RERANKER", "fake")
    monkeypatch.setenv("WINNOW_DATA_DIR", str(tmp_path / "data"))
    documents = [{"_id": "sea", "title": "Salt", "text": SEA}, {"_id": "bread", "text": BREAD}]
    documents += [{"_id": f"f{place}", "text": FILLER.format(place)} for place in range(30)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    (tmp_path / "questions.txt").write_text("why are there salts in the sea\nwhat makes bread rise\n")
    return tmp_path


def judge(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["judge", *map(str, arguments)])


def pool(*more: object) -> Result:
    return judge("pool", "questions.txt", "corpus.jsonl", "-o", "labels.csv", "--depth", 4, *more)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def label(path: Path, grades: dict[str, str]) -> None:
    """As a person does, with a spreadsheet."""
    found = table(path)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, found[0])
        writer.writeheader()
        for row in found:
            writer.writerow(row | {"relevance": grades.get(row["document_id"], row["relevance"])})


def test_questions_become_a_dataset_that_evaluate_takes(folder: Path) -> None:
    pooled = pool("--html", "label.html")
    assert pooled.exit_code == 0, pooled.stderr
    assert (
        "2 questions, 32 documents, up to 9 ways to search: the first 4 of each are 8 to 64 rows to label."
        in pooled.stderr
    )
    found = table(folder / "labels.csv")
    assert f"labels.csv: {len(found)} rows" in pooled.stdout
    assert f"{len(found)} rows to label, about" in pooled.stdout
    assert {row["relevance"] for row in found} == {""}
    assert {row["document_id"] for row in found} > {"sea", "bread"}
    assert not [name for name in found[0] if name in ("arm", "stage", "rank", "score")]
    label(folder / "labels.csv", GRADES)
    read = judge("read", "labels.csv", "corpus.jsonl", "-o", "mine")
    assert read.exit_code == 0, read.stderr
    assert "mine: 32 documents" in read.stdout
    assert "rows have no label and are left out." in read.stdout
    assert "Next: winnow evaluate mine" in read.stdout
    measured = CliRunner().invoke(app, ["evaluate", "mine", "--json", "found.json"])
    assert measured.exit_code == 0, measured.stderr
    (evaluation,) = json.loads((folder / "found.json").read_text())["evaluations"]
    assert len(evaluation["queries"]) == 2
    assert (folder / "label.html").read_text().startswith("<!doctype html>")


def test_pooling_again_adds_rows_and_keeps_labels(folder: Path) -> None:
    assert pool().exit_code == 0
    before = table(folder / "labels.csv")
    label(folder / "labels.csv", {row["document_id"]: "1" for row in before})
    with (folder / "questions.txt").open("a") as file:
        file.write("which topic has words\n")
    again = pool("--compare", "encoder=fake:16")
    assert again.exit_code == 0, again.stderr
    after = table(folder / "labels.csv")
    assert len(after) > len(before)
    assert f"{len(after) - len(before)} of them new, and every label kept" in again.stdout
    labelled = [row for row in after if row["relevance"]]
    assert [row | {"relevance": ""} for row in labelled] == before


def test_a_folder_of_texts_is_pooled_as_it_is_ingested(folder: Path) -> None:
    (folder / "docs" / "deep").mkdir(parents=True)
    (folder / "docs" / "sea.md").write_text(f"# The sea\n\n{SEA}")
    (folder / "docs" / "deep" / "bread.txt").write_text(BREAD)
    pooled = judge("pool", "questions.txt", "docs", "-o", "labels.jsonl")
    assert pooled.exit_code == 0, pooled.stderr
    found = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert {row["document_id"] for row in found} == {"sea.md", "deep/bread.txt"}
    assert {row["title"] for row in found} == {"The sea", "bread"}


def test_status_tells_how_far_each_question_is(folder: Path) -> None:
    pool()
    label(folder / "labels.csv", GRADES)
    told = judge("status", "labels.csv")
    assert told.exit_code == 0
    assert "what makes bread rise" in told.stdout
    assert "rows are labelled" in told.stdout
    assert "rows to label, about" in told.stdout


def test_a_bad_label_ends_reading_with_its_row(folder: Path) -> None:
    pool()
    label(folder / "labels.csv", {"sea": "yes"})
    row = 2 + [each["document_id"] for each in table(folder / "labels.csv")].index("sea")
    told = judge("read", "labels.csv", "corpus.jsonl", "-o", "mine")
    assert told.exit_code == 2
    assert f"labels.csv, row {row}: relevance is 'yes': write 0, 1, 2 or 3, or leave it empty." in told.stderr
    assert not (folder / "mine").exists()


def test_unlabelled_rows_can_be_refused_or_counted_as_nothing(folder: Path) -> None:
    pool()
    label(folder / "labels.csv", GRADES)
    refused = judge("read", "labels.csv", "corpus.jsonl", "-o", "mine", "--unlabelled", "refuse")
    assert refused.exit_code == 2
    assert "rows have no label: label them, or choose skip or zero." in refused.stderr
    counted = judge("read", "labels.csv", "corpus.jsonl", "-o", "mine", "--unlabelled", "zero")
    assert "rows have no label and count as 0." in counted.stdout
    judged = (folder / "mine" / "qrels" / "test.tsv").read_text().splitlines()
    assert len(judged) == 1 + len(table(folder / "labels.csv"))


def test_a_dataset_is_written_anew_but_nothing_else_is_overwritten(folder: Path) -> None:
    pool()
    label(folder / "labels.csv", GRADES)
    for _ in range(2):
        assert judge("read", "labels.csv", "corpus.jsonl", "-o", "mine").exit_code == 0
    (folder / "mine" / "notes.txt").write_text("mine")
    told = judge("read", "labels.csv", "corpus.jsonl", "-o", "mine")
    assert told.exit_code == 2
    assert "mine holds notes.txt, which is not of a dataset" in told.stderr


def test_another_corpus_than_the_pooled_one_is_noticed(folder: Path) -> None:
    pool()
    label(folder / "labels.csv", GRADES)
    (folder / "other.jsonl").write_text(json.dumps({"id": "x", "text": "other"}))
    told = judge("read", "labels.csv", "other.jsonl", "-o", "mine")
    assert told.exit_code == 2
    assert "is not in the corpus: give the corpus that was pooled" in told.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "x"}', "corpus.jsonl:1 has no id"),
        ('{"id": "a", "text": 5}', "corpus.jsonl:1 has a text that is not a string"),
        ('{"id": "a", "text": " "}', "corpus.jsonl:1 has no text"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "corpus.jsonl:2 has the id 'a', which was there before"),
        ("no json", "corpus.jsonl:1 is not valid JSON"),
        ("", "There are no documents"),
    ],
)
def test_a_document_that_labels_could_not_name_is_told_with_its_place(folder: Path, line: str, said: str) -> None:
    (folder / "corpus.jsonl").write_text(line)
    told = pool()
    assert told.exit_code == 2
    assert said in told.stderr
    assert not (folder / "labels.csv").exists()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("questions.jsonl", '{"id": "q1 ", "query": "why are there salts in the sea"}'),
        ("questions.jsonl", '{"id": "q\\t1", "query": "why are there salts in the sea"}'),
        ("corpus.jsonl", '{"id": " sea", "text": "Rivers carry salts."}'),
    ],
)
def test_an_id_that_no_dataset_can_hold_is_refused_before_anybody_labels(folder: Path, file: str, line: str) -> None:
    asked = "questions.jsonl" if file == "questions.jsonl" else "questions.txt"
    (folder / file).write_text(line)
    told = judge("pool", asked, "corpus.jsonl", "-o", "labels.csv")
    assert told.exit_code == 2
    assert "which BEIR's layout can't hold" in " ".join(told.stderr.split())
    assert not (folder / "labels.csv").exists()


def test_labels_of_a_document_that_reads_otherwise_by_now_are_pointed_out(folder: Path) -> None:
    assert pool().exit_code == 0
    label(folder / "labels.csv", GRADES)
    corpus = (folder / "corpus.jsonl").read_text()
    (folder / "corpus.jsonl").write_text(corpus.replace(SEA, "This page was moved, and says no more of salts."))
    for again in (pool(), judge("read", "labels.csv", "corpus.jsonl", "-o", "mine")):
        assert again.exit_code == 0, again.stderr
        said = " ".join(again.stderr.split())
        assert "labels are of documents that read otherwise by now: look at them again: 'sea'" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--compare", "encoder"], "write key=value"),
        (["--language", "klingon"], "There is no language 'klingon'"),
        (["--encoder", "nowhere"], "There is no encoder 'nowhere'"),
        (["--output", "labels.xlsx"], "labels are kept as .csv or .jsonl"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(folder: Path, more: list[str], said: str) -> None:
    told = judge("pool", "questions.txt", "corpus.jsonl", "-o", "labels.csv", *more)
    assert told.exit_code == 2
    assert said in told.stderr


def test_a_file_that_could_not_be_written_is_refused_before_any_search(folder: Path) -> None:
    told = judge("pool", "questions.txt", "corpus.jsonl", "-o", "labels.xlsx")
    assert told.exit_code == 2
    assert "ways to search" not in told.stderr
    assert not (folder / "data").exists()
