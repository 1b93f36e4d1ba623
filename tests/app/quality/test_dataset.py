from __future__ import annotations

from pathlib import Path

import pytest

from app.quality.dataset import BadDataset, read, sample, unanswerable
from tests.app.quality.folders import ANIMALS, ANSWERS, HEADER, QUESTIONS, lines, put, write


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_is_read_plain_or_zipped(tmp_path: Path, zipped: bool) -> None:
    dataset = read(write(tmp_path / "animals", zipped=zipped))
    assert dataset.name == "animals"
    assert {document.id: document.text for document in dataset.documents} == ANIMALS
    assert {query.id: query.text for query in dataset.queries} == QUESTIONS
    assert dataset.judgements == ANSWERS
    assert dataset.notes == ()


def test_titles_are_read_and_a_document_without_text_is_its_title(tmp_path: Path) -> None:
    write(tmp_path)
    rows = [
        {"_id": "owl", "title": "Owls", "text": "hunt"},
        {"_id": 7, "title": "Alone", "text": " "},
        {"_id": "x", "text": ""},
    ]
    put(tmp_path / "corpus.jsonl", lines(list(rows)))
    dataset = read(tmp_path)
    assert [(each.id, each.title, each.text) for each in dataset.documents] == [
        ("owl", "Owls", "hunt"),
        ("7", "", "Alone"),
    ]
    assert "1 documents have no text and are left out." in dataset.notes


def test_queries_that_nobody_answered_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, answers={"q1": {"owl": 1}, "q2": {"whale": 0}})
    dataset = read(tmp_path)
    assert [query.id for query in dataset.queries] == ["q1"]
    assert dataset.notes == ("1 judged queries have no relevant document and are left out.",)


def test_judgements_of_what_is_not_there_are_counted(tmp_path: Path) -> None:
    write(tmp_path, answers={"q1": {"owl": 1, "dodo": 1}, "q9": {"owl": 1}})
    dataset = read(tmp_path)
    assert dataset.judgements == {"q1": {"owl": 1, "dodo": 1}}
    assert any("1 relevant documents are not in the corpus" in note for note in dataset.notes)
    assert any("1 queries are judged and not in the queries file" in note for note in dataset.notes)


def test_the_higher_of_two_judgements_counts_and_none_is_below_zero(tmp_path: Path) -> None:
    write(tmp_path)
    put(tmp_path / "qrels" / "test.tsv", HEADER + "q1\towl\t1\nq1\towl\t2\nq1\tlion\t-1\nq1\tlion\t-1\n")
    dataset = read(tmp_path)
    assert dataset.judgements["q1"] == {"owl": 2, "lion": 0}
    assert "2 judgements are below 0 and count as 0." in dataset.notes
    assert "2 judgements are there twice; the higher one counts." in dataset.notes


def test_judgements_need_no_header_and_may_end_lines_as_windows_does(tmp_path: Path) -> None:
    write(tmp_path)
    put(tmp_path / "qrels" / "test.tsv", "q1\towl\t1\r\n\r\nq2\twhale\t1\r\n")
    assert read(tmp_path).judgements == {"q1": {"owl": 1}, "q2": {"whale": 1}}


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"_id": \n', "corpus.jsonl:2: is not JSON"),
        ("corpus.jsonl", '["a"]\n', "corpus.jsonl:1: is not a JSON object"),
        ("corpus.jsonl", '{"text": "x"}\n', "corpus.jsonl:1: has no _id"),
        ("corpus.jsonl", '{"_id": "a"}\n', "corpus.jsonl:1: text is missing"),
        ("corpus.jsonl", '{"_id": "a", "text": 5}\n', "corpus.jsonl:1: text is not a string"),
        (
            "corpus.jsonl",
            '{"_id": "a", "text": "x"}\n\n{"_id": "a", "text": "y"}\n',
            "corpus.jsonl:3: the id 'a' has been",
        ),
        ("corpus.jsonl", "", "holds no documents"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', "queries.jsonl:1: the query 'q1' is empty"),
        (
            "queries.jsonl",
            '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n',
            "queries.jsonl:2: the id 'a' has been",
        ),
        ("qrels/test.tsv", HEADER + "q1 owl 1\n", "test.tsv:2: has 1 columns, not 3"),
        ("qrels/test.tsv", HEADER + "q1\towl\t1\nq1\tlion\tyes\n", "test.tsv:3: the score 'yes' is not a whole number"),
        ("qrels/test.tsv", HEADER + "q1\tdodo\t1\n", "do the two belong together?"),
        ("qrels/test.tsv", HEADER + "q1\towl\t0\n", "has no judgement above 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, file: str, content: str, told: str) -> None:
    write(tmp_path)
    put(tmp_path / file, content)
    with pytest.raises(BadDataset) as error:
        read(tmp_path)
    assert told in str(error.value)


@pytest.mark.parametrize("grade", ["+-1", "--1", "9" * 5000, "99999999999999999999", "1000000", "1.0", "\u0663"])
def test_a_grade_is_a_whole_number_that_measures_can_bear(tmp_path: Path, grade: str) -> None:
    put(write(tmp_path) / "qrels" / "test.tsv", f"{HEADER}q1\towl\t{grade}\n")
    with pytest.raises(BadDataset, match=r"test.tsv:2: the score .{3,26} is not a whole number of at most 6 digits"):
        read(tmp_path)


@pytest.mark.parametrize("grade", ["+1", " 1 ", "0001", "1\r"])
def test_a_grade_may_be_written_as_ever(tmp_path: Path, grade: str) -> None:
    put(write(tmp_path) / "qrels" / "test.tsv", f"{HEADER}q1\towl\t{grade}\n")
    assert read(tmp_path).judgements == {"q1": {"owl": 1}}


@pytest.mark.parametrize("before", ["", "\ufeff", "\n"])
@pytest.mark.parametrize("header", ["", HEADER])
def test_the_first_line_of_judgements_is_a_header_only_without_any_number(
    tmp_path: Path, header: str, before: str
) -> None:
    write(tmp_path)
    put(tmp_path / "qrels" / "test.tsv", f"{before}{header}q1\towl\t1\nq2\twhale\t1\n")
    assert read(tmp_path).judgements == {"q1": {"owl": 1}, "q2": {"whale": 1}}
    put(tmp_path / "qrels" / "test.tsv", f"{before}q1\towl\t1.5\nq2\twhale\t1\n")
    with pytest.raises(BadDataset, match=r"test.tsv:\d: the score '1.5' is not"):
        read(tmp_path)


def test_documents_may_begin_with_a_byte_order_mark_and_have_another_id_where_one_is_null(tmp_path: Path) -> None:
    write(tmp_path)
    row = '{"_id": null, "id": "owl", "text": "An owl."}\n'
    put(tmp_path / "corpus.jsonl", f"\ufeff{row}")
    assert [each.id for each in read(tmp_path).documents] == ["owl"]


def test_a_missing_file_or_split_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"has no corpus.jsonl \(nor corpus.jsonl.gz\)"):
        read(tmp_path)
    write(tmp_path)
    put(tmp_path / "qrels" / "dev.tsv", HEADER, zipped=True)
    with pytest.raises(BadDataset, match="no judgements for the split 'train'; there are: dev, test"):
        read(tmp_path, "train")


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadDataset, match=r"corpus.jsonl.gz can't be read"):
        read(tmp_path)


def test_a_sample_is_the_same_for_the_same_seed_and_says_so(tmp_path: Path) -> None:
    queries = {f"q{number}": f"question {number}" for number in range(50)}
    dataset = read(write(tmp_path, queries=queries, answers={name: {"owl": 1} for name in queries}))
    first, again, other = sample(dataset, 10, 1), sample(dataset, 10, 1), sample(dataset, 10, 2)
    assert first == again
    assert first.queries != other.queries
    assert len(first.queries) == len(first.judgements) == 10
    assert "10 of 50 queries were drawn at random (seed 1)." in first.notes
    assert sample(dataset, 50, 1) is dataset


def test_what_was_left_beside_the_judgements_is_no_split(tmp_path: Path) -> None:
    folder = write(tmp_path, answers={"q1": {"owl": 1}, "q2": {"owl": 0}})
    for name in (".test.tsv.partial", "test.tsv~", "._test.tsv"):
        put(folder / "qrels" / name, HEADER + "q2\towl\t1\nq3")
    assert [query.id for query, _ in unanswerable(tmp_path, "test", unjudged=False)] == ["q2"]
    with pytest.raises(BadDataset, match=r"there are: test\. Choose"):
        read(tmp_path, "train")


def test_unanswerable_are_queries_that_no_split_has_an_answer_for(tmp_path: Path) -> None:
    answers = {"q1": {"owl": 1}, "q2": {"owl": 0}}
    put(write(tmp_path, answers=answers) / "qrels" / "train.tsv", HEADER + "q3\tbee\t1\n", zipped=True)
    found = {query.id: grades for query, grades in unanswerable(tmp_path, "test", unjudged=True)}
    assert found == {"q2": {"owl": 0}, "q4": {}}
    assert [query.id for query, _ in unanswerable(tmp_path, "test", unjudged=False)] == ["q2"]
