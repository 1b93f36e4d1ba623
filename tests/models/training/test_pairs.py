"""What can be trained on: files of pairs, how they are sampled, and what is said of bad ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from models.training.errors import TrainingError
from models.training.groups import read_groups
from models.training.pairs import described, read_pairs, read_passages, sample
from models.training.settings import caps
from tests.models.training.conftest import lines

PAIR = {"query": "why is the sea salty?", "positive": "Rivers carry salts into it."}
GROUP = {"query": "why?", "passages": ["because", "why not"], "dense": [0.9, 0.1], "lexical": [0.5, 0.0]}


def test_pairs_are_read_plain_and_packed_file_after_file(pairs: Path) -> None:
    found = read_pairs(pairs)

    assert [pair.source for pair in found] == ["tame"] * 16 + ["wild"] * 16
    assert found[1].query == "what does the lizard do ?"
    assert found[1].passage.titled == "lizard\nthe lizard sleeps in the reeds"


def test_a_pair_needs_no_more_than_a_query_and_a_positive(tmp_path: Path) -> None:
    (tmp_path / "sea.jsonl").write_text(lines([PAIR]))

    (pair,) = read_pairs(tmp_path / "sea.jsonl")

    assert (pair.query, pair.passage.text, pair.source) == (PAIR["query"], PAIR["positive"], "sea")


def test_a_pair_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "sea.jsonl").write_text(lines([PAIR, PAIR, PAIR | {"positive": "Its water evaporates."}]))

    assert len(read_pairs(tmp_path)) == 2


def test_a_corpus_beside_the_pairs_is_not_taken_for_pairs(tmp_path: Path) -> None:
    (tmp_path / "sea.jsonl").write_text(lines([PAIR]))
    (tmp_path / "corpus.jsonl").write_text(lines([{"_id": "1", "text": "Tides rise and fall."}]))

    assert len(read_pairs(tmp_path)) == 1
    assert [passage.text for passage in read_passages(tmp_path / "corpus.jsonl")] == ["Tides rise and fall."]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "sea"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        lines([{"_id": "1", "title": "Salt", "text": "Rivers carry it."}, {"_id": "2", "text": "Tides rise."}])
    )
    (folder / "queries.jsonl").write_text(
        lines([{"_id": "q", "text": "why salty?"}, {"_id": "r", "text": "why tides?"}])
    )
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\nq\t2\t0\nr\tgone\t1\n")
    return folder


def test_what_a_beir_folder_judges_for_training_are_pairs_and_its_corpus_passages(beir: Path) -> None:
    (pair,) = read_pairs(beir)

    assert (pair.query, pair.passage.titled, pair.source) == ("why salty?", "Salt\nRivers carry it.", "sea")
    assert [passage.id for passage in read_passages(beir)] == ["1", "2"]


def test_judgements_for_testing_are_not_trained_on(beir: Path) -> None:
    (beir / "qrels" / "train.tsv").rename(beir / "qrels" / "test.tsv")

    with pytest.raises(TrainingError, match=r"has no qrels/train\.tsv"):
        read_pairs(beir)


def test_blank_lines_among_judgements_are_passed_over(beir: Path) -> None:
    (beir / "qrels" / "train.tsv").write_text("\nq\t1\t1\n\nr\t2\t1\n\n")

    assert [pair.query for pair in read_pairs(beir)] == ["why salty?", "why tides?"]


def test_a_bad_judgement_is_named_with_its_line(beir: Path) -> None:
    (beir / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\tyes\n")

    with pytest.raises(TrainingError, match=r"train\.tsv:2 must have"):
        read_pairs(beir)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train.tsv", "café\t1\t1\n".encode("latin-1"), r"train\.tsv is not UTF-8 text"),
        ("train.tsv.gz", gzip.compress(b"q\t1\t1\n" * 1000)[:-20], r"train\.tsv\.gz is damaged"),
        ("train.tsv.gz", b"q\t1\t1\n", r"train\.tsv\.gz is damaged"),
        ("train.tsv", b"q\t1\t1\n" + b"long" * 50_000, r"train\.tsv:2 must have"),
    ],
    ids=["another encoding", "cut short", "never packed", "a line without end"],
)
def test_judgements_that_can_not_be_read_are_named(beir: Path, name: str, content: bytes, told: str) -> None:
    (beir / "qrels" / "train.tsv").unlink()
    (beir / "qrels" / name).write_bytes(content)

    with pytest.raises(TrainingError, match=told):
        read_pairs(beir)


def test_a_mined_group_is_a_pair_with_negatives(tmp_path: Path) -> None:
    (tmp_path / "mined.jsonl").write_text(lines([GROUP]))

    (pair,) = read_pairs(tmp_path)

    assert (pair.query, pair.passage.text, pair.negatives) == ("why?", "because", ("why not",))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "bad.jsonl:2 is not JSON"),
        ("[1]", "bad.jsonl:2 is not a JSON object"),
        ('{"query": "why?"}', "bad.jsonl:2 has no `positive`"),
        ('{"query": " ", "positive": "so"}', "bad.jsonl:2 has no `query`"),
        (r'{"query": "why \ud83d", "positive": "so"}', "bad.jsonl:2 holds half of a surrogate pair"),
        (r'{"query": "why?", "positive": "so", "negatives": ["\udc00"]}', "bad.jsonl:2 holds half of a surrogate pair"),
        ('{"query": 7, "positive": "so"}', "bad.jsonl:2 has a `query` that is not a text"),
        ('{"query": "why?", "positive": "so", "negatives": "no"}', "bad.jsonl:2 has `negatives` that are not a list"),
        ('{"query": "why?", "passages": ["so"]}', "bad.jsonl:2 is not a mined group"),
        ('{"query": "why?", "passages": ["so", "no"], "dense": [1.0]}', "bad.jsonl:2 needs a number for each passage"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "bad.jsonl").write_text(lines([PAIR]) + line + "\n")

    with pytest.raises(TrainingError, match=told):
        read_pairs(tmp_path / "bad.jsonl")


def test_letters_that_json_writes_in_two_halves_are_read(tmp_path: Path) -> None:
    (tmp_path / "sea.jsonl").write_text(lines([PAIR | {"query": "why \N{WATER WAVE}?"}]))
    assert r"\ud83c\udf0a" in (tmp_path / "sea.jsonl").read_text()

    (pair,) = read_pairs(tmp_path)

    assert pair.query == "why \N{WATER WAVE}?"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(lines([PAIR] * 1000).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])

    with pytest.raises(TrainingError, match=r"cut\.jsonl\.gz is damaged"):
        read_pairs(tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_holds_no_pairs(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.jsonl").write_text(content)

    with pytest.raises(TrainingError, match="There are no pairs"):
        read_pairs(tmp_path)


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has no \.jsonl"):
        read_pairs(tmp_path)


def test_plain_pairs_are_no_groups(tmp_path: Path) -> None:
    (tmp_path / "sea.jsonl").write_text(lines([PAIR]))

    with pytest.raises(TrainingError, match="Run `winnow mine` first"):
        read_groups(tmp_path)


def test_a_sample_keeps_to_the_caps_in_their_order_and_repeats_with_its_seed(pairs: Path) -> None:
    every = read_pairs(pairs)

    first, again, other = (sample(every, caps("wild=9, tame=5"), seed) for seed in (1, 1, 2))

    assert {source: len(found) for source, found in first.items()} == {"wild": 9, "tame": 5}
    assert list(first) == ["wild", "tame"]
    assert first == again != other


def test_without_caps_everything_is_taken(pairs: Path) -> None:
    assert sorted(map(len, sample(read_pairs(pairs), {}, 1).values())) == [16, 16]


def test_a_source_that_is_not_there_is_named(pairs: Path) -> None:
    with pytest.raises(TrainingError, match="--take names 'sea'"):
        sample(read_pairs(pairs), {"sea": 5}, 1)


@pytest.mark.parametrize("take", ["wild", "wild=", "=5", "wild=some", "wild=-1"])
def test_caps_that_are_no_caps_are_refused_with_an_example(take: str) -> None:
    with pytest.raises(TrainingError, match="must look like"):
        caps(take)


def test_the_data_is_told_in_a_line(pairs: Path) -> None:
    assert described(read_pairs(pairs), "pairs") == "32 pairs of 24 queries: tame 16, wild 16"
