from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quality import dataset, judge, label_page, labels, questions, sheets
from app.quality.cache import Cache
from app.quality.labels import BadLabels, Row
from app.quality.pipeline import evaluate
from app.quality.questions import BadQuestions
from app.quality.sheets import BadSheet
from app.quality.types import Dataset, Query, Run
from app.quality.variants import Setup
from app.quality.workbench import Advance, Workbench
from app.types import Document
from models.types import ModelOptions
from tests.app.quality.test_page import Tree

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
risky = st.builds(
    str.__add__,
    st.sampled_from(["=", "+", "-", "@", "'", "''", "\t", "\r", "1e5", "007", "\ufeff", '"', ";"]),
    anything,
)
texts = anything | risky
words = texts.filter(str.strip)
names = texts.filter(lambda name: name == name.strip() and name and not set(name) & set("\t\r\n"))
queries = st.builds(Query, names, words)
rows = st.lists(
    st.builds(Row, queries, names, texts, texts, st.sampled_from([None, 0, 1, 2, 3])),
    min_size=1,
    max_size=8,
    unique_by=(lambda row: row.key, lambda row: row.query.id),
)

SALT = Row(Query("q1", "why is the sea salty?"), "salt", "Salt", "Rivers carry salt.", 3)
TIDES = replace(SALT, document="tides", title="", text="The moon pulls.", relevance=None)


@settings(max_examples=60)
@given(rows, st.sampled_from([".csv", ".jsonl"]))
def test_what_is_written_is_read_back_whatever_the_texts_are(tmp_path: Path, drawn: list[Row], ending: str) -> None:
    path = tmp_path / f"labels{ending}"
    labels.write(path, drawn)
    assert labels.read(path) == drawn
    assert [each.name for each in tmp_path.glob("*.new")] == []


@settings(max_examples=40)
@given(rows, st.sampled_from([";", "\t"]), st.booleans())
def test_a_spreadsheet_may_write_it_with_other_delimiters(
    tmp_path: Path, drawn: list[Row], delimiter: str, marked: bool
) -> None:
    path = tmp_path / "labels.csv"
    labels.write(path, drawn)
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = list(csv.reader(file))
    with path.open("w", encoding="utf-8-sig" if marked else "utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([*cells, [""] * 6])
    assert labels.read(path) == drawn


@given(texts)
def test_no_cell_begins_like_a_formula_or_turns_into_a_number(text: str) -> None:
    cell = sheets.shield(text)
    assert sheets.unshield(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@pytest.mark.parametrize("text", ["007", "1e5", "2024-05", "1/2", "10:30", ".5", "1234567890123456", "=1+1", "'"])
def test_what_a_spreadsheet_would_change_is_shielded(text: str) -> None:
    assert sheets.shield(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "0", "7", "4983", "q1", "2020 was a year", "MED-10", "x-1e5"])
def test_what_a_spreadsheet_leaves_alone_stays_readable(text: str) -> None:
    assert sheets.shield(text) == text


@settings(max_examples=40)
@given(rows, st.sampled_from(["skip", "zero"]))
def test_labels_become_a_dataset_that_evaluation_reads(
    tmp_path: Path, drawn: list[Row], unlabelled: judge.Unlabelled
) -> None:
    drawn = [replace(drawn[0], relevance=2), *drawn[1:]]
    held = {row.document: Document(row.document, f"text {row.text}", row.title) for row in drawn}
    judge.check(drawn, held, unlabelled)
    judge.save(tmp_path, held.values(), drawn, unlabelled)
    found = dataset.read(tmp_path)
    assert {document.id: document for document in found.documents} == held
    relevant = {row.query: row for row in drawn if row.relevance}
    assert set(found.queries) == set(relevant)
    for query, row in relevant.items():
        assert found.judgements[query.id] == {row.document: row.relevance}


def test_a_row_without_a_label_is_left_out_or_counts_as_nothing(tmp_path: Path) -> None:
    held = [Document("salt", "x"), Document("tides", "y")]
    judge.save(tmp_path, held, [SALT, TIDES], "skip")
    assert dataset.read(tmp_path).judgements == {"q1": {"salt": 3}}
    judge.save(tmp_path, held, [SALT, TIDES], "zero")
    assert dataset.read(tmp_path).judgements == {"q1": {"salt": 3, "tides": 0}}


@pytest.mark.parametrize(
    ("drawn", "known", "unlabelled", "said"),
    [
        ([SALT, TIDES], ["salt", "tides"], "refuse", "1 of 2 rows have no label"),
        ([TIDES], ["tides"], "skip", "No row has a label above 0"),
        ([SALT], ["other"], "skip", "'salt' of the labels is not in the corpus"),
        ([replace(SALT, document=" x")], [" x"], "skip", "The id ' x' has spaces around it"),
        ([replace(SALT, document="a\tb")], ["a\tb"], "skip", "breaks a line"),
    ],
)
def test_labels_that_make_no_dataset_are_refused(
    drawn: list[Row], known: list[str], unlabelled: judge.Unlabelled, said: str
) -> None:
    with pytest.raises(BadLabels, match=said):
        judge.check(drawn, known, unlabelled)


def test_every_bad_label_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    labels.write(path, [replace(SALT, document=f"d{place}") for place in range(6)])
    text = path.read_text("utf-8-sig").splitlines()
    text[2] = text[2].replace("3,", "maybe,", 1)
    text[4] = text[4].replace("3,", "4,", 1)
    text[6] = text[6].replace(",q1,", ",,", 1)
    path.write_text("\n".join(text), "utf-8")
    with pytest.raises(BadLabels) as raised:
        labels.read(path)
    assert str(raised.value).splitlines() == [
        f"{path}, row 3: relevance is 'maybe': write 0, 1, 2 or 3, or leave it empty.",
        f"{path}, row 5: relevance is '4': write 0, 1, 2 or 3, or leave it empty.",
        f"{path}, row 7: has no query_id: it must stay as `winnow judge pool` wrote it.",
    ]


def test_beyond_twenty_bad_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    bad = labels.as_object(SALT) | {"relevance": "5"}
    path.write_text("\n".join([json.dumps(bad)] * 50))
    with pytest.raises(BadLabels, match="… and 30 more"):
        labels.read(path)


def test_a_row_number_counts_rows_and_not_the_lines_within_them(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    labels.write(path, [replace(SALT, text="three\nlines\nlong"), replace(TIDES, document="x")])
    path.write_text(path.read_text("utf-8-sig").replace(",x", ","), "utf-8")
    with pytest.raises(BadLabels, match="row 3: has no document_id"):
        labels.read(path)


def test_the_same_pair_may_not_be_labelled_in_two_ways(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    labels.write(path, [SALT, replace(SALT, relevance=None)])
    assert labels.read(path) == [SALT]
    labels.write(path, [SALT, replace(SALT, relevance=1)])
    with pytest.raises(BadLabels, match="line 2: says 1 of a document that another row calls 3"):
        labels.read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"query,text\nx,y\n", "has no column 'relevance'"),
        ("a.csv", b"", "has no column 'relevance'"),
        ("a.csv", "relevance,query,query_id,document_id\n1,caf\xe9,a,b\n".encode("latin-1"), "is not UTF-8"),
        ("a.csv", b"relevance,query,query_id,document_id\n1,x,a,b,c\n", "row 2: has more cells"),
        ("a.csv", b'relevance,query,query_id,document_id\n1,"x"y,a,b\n', "row 2: is not CSV"),
        ("a.jsonl", b'{"relevance":1}\n[1]\n', "line 2: is not a JSON object"),
        ("a.jsonl", b"{\n", "line 1: is not JSON"),
        ("a.xlsx", b"PK", "kept as .csv or .jsonl"),
    ],
)
def test_a_file_that_holds_no_labels_is_told_from_one_that_does(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((BadLabels, BadSheet), match=said):
        labels.read(tmp_path / name)


@given(rows, rows, st.integers(0, 5))
def test_pooling_again_keeps_every_label_and_adds_what_is_new(old: list[Row], new: list[Row], seed: int) -> None:
    texts = {row.query.id: row.query for row in old}
    new = [replace(row, query=texts.get(row.query.id, row.query), relevance=None) for row in new]
    merged = judge.merge(old, new, seed)
    found = {row.key: row for row in merged}
    assert len(found) == len(merged)
    assert {row.key: row for row in old}.items() <= found.items()
    assert found.keys() == {row.key for row in (*old, *new)}
    assert judge.merge(merged, new, seed) == merged, "twice changes nothing"


def test_rows_stand_in_an_order_that_does_not_tell_who_found_them() -> None:
    waiting = [replace(TIDES, document=f"d{place:02}") for place in range(20)]
    merged = judge.merge([], waiting, seed=1)
    assert merged == judge.merge([], waiting[::-1], seed=1), "it depends on the rows and the seed alone"
    assert merged != waiting
    assert merged != judge.merge([], waiting, seed=2)
    later = judge.merge([SALT, *waiting[:10]], waiting[10:], seed=1)
    assert later[0] == SALT, "what has a label stays in front"
    assert {row.document for row in later[-10:]} != {row.document for row in waiting[10:]}, "new ones are not the last"


def test_a_label_does_not_pass_to_another_question_of_the_same_id() -> None:
    with pytest.raises(BadLabels, match="give the new one an id of its own"):
        judge.merge([SALT], [replace(TIDES, query=Query("q1", "why does it rain?"))], 0)


@contextmanager
def untracked(what: str, total: int) -> Iterator[Advance]:
    yield lambda steps: None


def test_what_is_pooled_is_what_any_stage_or_variant_has_among_its_first() -> None:
    held = tuple(Document(f"d{place}", f"topic {place} of {place % 5} many words {place % 3}") for place in range(40))
    asked = (Query("a", "topic 3 of many"), Query("b", "words 2 and 17"))
    made = Dataset("pool", "none", held, asked, {query.id: {} for query in asked})
    bench = Workbench(ModelOptions(), Cache(None), untracked, lambda device: 4096)
    setups = [Setup("fake", "fake"), Setup("fake:16", "fake", name="fake:16")]
    runs = [run for setup in setups for run in evaluate(made, setup, bench, 0)[1]]
    assert {"dense", "lexical", "fused", "dense+rerank", "fused+blend"} <= {run.arm for run in runs}
    found = judge.pool(runs, 4)
    for query in asked:
        first = [sorted(run.scores[query.id].items(), key=lambda each: (each[1], each[0]))[-4:] for run in runs]
        assert found[query.id] == {name for ranked in first for name, _ in ranked}
    assert len(found["a"]) > 4, "the ways differ"
    made_rows = judge.rows(asked, {document.id: document for document in held}, found)
    assert {row.key for row in made_rows} == {(query, name) for query, names in found.items() for name in names}


def test_of_equal_scores_those_are_pooled_that_the_measures_look_at() -> None:
    assert judge.pool([Run("dense", {"q": {"a": 1.0, "b": 1.0, "c": 2.0}})], 2) == {"q": {"c", "b"}}


def test_of_a_long_text_the_part_with_the_questions_words_is_shown() -> None:
    filler = "Nothing of note is said here. " * 200
    shown = judge.excerpt(f"{filler}The sea is salty because of rivers. {filler}", "why is the sea salty?")
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert "salty because of rivers" in shown
    assert len(shown) <= judge.EXCERPT + 4
    assert judge.excerpt("short", "x") == "short"


def test_the_part_of_a_whole_book_is_found_soon() -> None:
    began = monotonic()
    assert "salty" in judge.excerpt("Nothing of note is said here. " * 25_000 + "The sea is salty.", "why is it salty?")
    assert monotonic() - began < 8


def test_progress_is_counted_by_question() -> None:
    other = replace(SALT, query=Query("q2", "how?"), relevance=0)
    assert judge.progress([SALT, TIDES, other]) == [
        judge.Progress(SALT.query, 2, 1, 1),
        judge.Progress(other.query, 1, 1, 0),
    ]


def test_rows_take_their_time_and_none_takes_none() -> None:
    assert judge.effort(72) == "72 rows to label, about 18 min at 15 seconds each"
    assert judge.effort(0) == "0 rows to label"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.txt", "why?\n\n  how? \nwhy?\n"),
        ("q.txt", "\ufeffwhy?\r\nhow?\r\n"),
        ("q.jsonl", '{"query": "why?"}\n{"text": "how?"}\n'),
        ("q.csv", "query\nwhy?\nhow?\n"),
        ("q.csv", "\ufeffText;note\nwhy?;x\nhow?;\n"),
    ],
)
def test_questions_are_read_from_what_people_have(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, "utf-8", newline="")
    found = questions.read(path)
    assert [query.text for query in found] == ["why?", "how?"]
    assert len({query.id for query in found}) == 2


def test_a_question_keeps_its_name_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("why?\nhow?\n")
    (tmp_path / "b.txt").write_text("when?\nhow?\nwhy?\n")
    assert set(questions.read(tmp_path / "a.txt")) < set(questions.read(tmp_path / "b.txt"))
    (tmp_path / "c.jsonl").write_text('{"_id": 7, "text": "why?"}\n')
    assert questions.read(tmp_path / "c.jsonl") == (Query("7", "why?"),)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.txt", "\n", "holds no questions"),
        ("q.txt", b"caf\xe9", "is not UTF-8"),
        ("q.pdf", "x", "read from .txt"),
        ("q.csv", "note\nwhy?\n", "row 2: has no question"),
        ("q.jsonl", '{"query": 5}', "line 1: has no question"),
        ("q.jsonl", "[]", "line 1: is not a JSON object"),
        ("q.jsonl", "\n{", "line 2: is not JSON"),
        (
            "q.jsonl",
            '{"id": "a", "query": "x"}\n{"id": "a", "query": "y"}',
            "line 2, the id|line 2: the id 'a' belongs",
        ),
    ],
)
def test_questions_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((BadQuestions, BadSheet), match=said):
        questions.read(path)


def test_labels_of_documents_that_read_otherwise_by_now_are_told() -> None:
    held = {"salt": Document("salt", "This page was moved."), "tides": Document("tides", "This page too.")}
    assert judge.changed([SALT, TIDES], held) == [SALT], "what waits for a label loses none"
    assert judge.changed([replace(SALT, text="Rivers  carry\r\nsalt.")], {"salt": Document("salt", SALT.text)}) == []
    assert judge.changed([replace(SALT, text="")], held) == [], "nobody knows what was read"
    assert judge.changed([SALT], {}) == []


def test_what_waits_for_a_label_is_shown_as_it_reads_now() -> None:
    moved = replace(TIDES, text="The moon and the sun pull.")
    assert judge.merge([SALT, TIDES], [replace(SALT, text="Other."), moved], 0) == [SALT, moved]


@settings(max_examples=20)
@given(rows)
def test_the_page_to_label_holds_every_row_and_lets_none_of_them_act(drawn: list[Row]) -> None:
    hostile = [replace(row, text=f"</script><script>alert(1)</script><!--{row.text}") for row in drawn]
    tree = Tree(label_page.render(hostile, Path("labels.csv")))
    assert tree.open == []
    assert tree.tags["script"] == 2, "the data and the page's own"
    data, own = tree.texts["script"]
    assert json.loads(data) == [labels.as_object(row) for row in hostile]
    assert "localStorage" in own
    assert not tree.values("src")
    assert tree.values("data-grade") == ["0", "1", "2", "3"]


def test_what_the_page_saves_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(labels.as_object(row)) + "\n" for row in (SALT, TIDES)))
    assert labels.read(tmp_path / "labels.jsonl") == [SALT, TIDES]
