"""Hard negatives: what is drawn, and what is left out since it may be right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from sentence_transformers import SentenceTransformer

from models.catalog import open_encoder
from models.training.errors import TrainingError
from models.training.groups import Group, read_groups
from models.training.lexicon import Lexicon
from models.training.mine import Mining, mine_file
from models.training.pairs import Pair, Passage, read_pairs
from models.training.run import Plan, Run
from models.training.settings import MiningSettings
from models.training.vectors import VectorFiles
from models.types import ModelOptions
from tests.models.folders import silenced
from tests.models.training.conftest import ANIMALS, FACTS, Witness, lines

TEXTS = [f"the {animal} {fact}" for animal in ANIMALS[:4] for fact in FACTS]


@pytest.fixture(scope="module")
def encoder(base: Path) -> SentenceTransformer:
    return SentenceTransformer(str(base), device="cpu")


def _mined(
    encoder: SentenceTransformer, folder: Path, pairs: list[Pair], extra: list[Passage], **how: float
) -> tuple[list[Group], Mining]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wanted = MiningSettings(**{"margin": 2.0, "twin": 2.0} | how)  # type: ignore[arg-type]  # of many types
    mining = Mining(VectorFiles(encoder, folder, Witness()), wanted, Witness())
    return list(mining.mine({"wild": pairs}, pairs, extra)), mining


def test_a_group_starts_with_the_answer_and_holds_no_other_answer_to_its_query(groups: Path, pairs: Path) -> None:
    known: dict[str, set[str]] = {}
    for pair in read_pairs(pairs):
        known.setdefault(pair.query, set()).update({pair.passage.text, pair.passage.titled})

    found = read_groups(groups)

    assert len(found) == 32
    for group in found:
        assert group.answer in known[group.query]
        assert not known[group.query].intersection(group.passages[1:])
        assert len(group.passages) == len(set(group.passages)) == len(group.dense) == len(group.lexical)


@settings(max_examples=15)
@given(
    some.lists(
        some.tuples(some.sampled_from(["what does the otter do ?", "where ?"]), some.sampled_from(TEXTS)), min_size=1
    ),
    some.lists(some.sampled_from(TEXTS)),
)
def test_no_negative_is_known_to_answer_whatever_the_data(
    encoder: SentenceTransformer, tmp_path: Path, asked: list[tuple[str, str]], texts: list[str]
) -> None:
    pairs = [Pair(query, Passage("wild", f"p{at}", "", text)) for at, (query, text) in enumerate(asked)]
    strays = [Passage("", f"s{at}", "", text) for at, text in enumerate(texts)]

    groups, mining = _mined(encoder, tmp_path / "vectors", pairs, strays, dense=9, lexical=9)

    for group in groups:
        assert not {text for query, text in asked if query == group.query}.intersection(group.passages[1:])
    assert mining.tally.groups + mining.tally.without == len(pairs)


@pytest.mark.parametrize("margin", [-0.01, 0.0])
def test_a_passage_that_outscores_the_answer_beyond_the_margin_is_no_negative(
    encoder: SentenceTransformer, tmp_path: Path, pairs: Path, margin: float
) -> None:
    every = [pair for pair in read_pairs(pairs) if pair.source == "wild"]

    groups, mining = _mined(encoder, tmp_path / "vectors", every, [], margin=margin)

    assert groups
    assert all(max(group.dense[1:]) <= group.dense[0] + margin + 1e-4 for group in groups)
    assert mining.tally.refused["margin"]


def test_a_passage_that_says_the_same_as_the_answer_is_no_negative(
    encoder: SentenceTransformer, tmp_path: Path
) -> None:
    pair = Pair("where does the otter eat ?", Passage("wild", "1", "", TEXTS[0]))
    others = [Passage("wild", str(at), "", text) for at, text in enumerate(TEXTS[1:], 2)]
    likeness = encoder.encode(TEXTS, normalize_embeddings=True) @ encoder.encode(TEXTS[0], normalize_embeddings=True)
    twin = float(np.median(likeness))

    (group,), mining = _mined(encoder, tmp_path / "vectors", [pair], others, twin=twin, dense=30, lexical=30)

    expected = {text for text, near in zip(TEXTS, likeness, strict=True) if near < twin}
    assert set(group.passages[1:]) == expected
    assert mining.tally.refused["twin"] == len(TEXTS) - 1 - len(expected)


def test_a_negative_by_both_rankings_is_outdone_in_neither_or_only_in_one(
    encoder: SentenceTransformer, tmp_path: Path
) -> None:
    pair = Pair(TEXTS[0], Passage("wild", "1", "", TEXTS[0]))
    others = [Passage("wild", str(at), "", text) for at, text in enumerate(TEXTS[1:], 2)]

    (every,), _ = _mined(encoder, tmp_path / "vectors", [pair], others, dense=40, lexical=0, window=40)
    (both,), _ = _mined(encoder, tmp_path / "vectors", [pair], others, dense=0, lexical=0, fused=1, window=2)

    (found,) = both.passages[1:]
    near, alike = both.dense[1], both.lexical[1]
    rivals = zip(every.passages[1:], every.dense[1:], every.lexical[1:], strict=True)
    assert not [text for text, dense, lexical in rivals if text != found and dense > near and lexical > alike]


def test_the_first_ranks_can_be_left_out(encoder: SentenceTransformer, tmp_path: Path) -> None:
    pair = Pair("where does the otter eat ?", Passage("wild", "1", "", "where does the otter hides ?"))
    others = [Passage("wild", str(at), "", text) for at, text in enumerate(TEXTS, 2)]
    how = {"dense": 1, "lexical": 0}

    (deep,), _ = _mined(encoder, tmp_path / "vectors", [pair], others, **how, skip_first=5, window=1)
    (every,), _ = _mined(encoder, tmp_path / "vectors", [pair], others, dense=30, lexical=0)

    assert deep.dense[1] == sorted(every.dense, reverse=True)[5]


def test_passages_that_answer_nothing_are_mined_and_negatives_that_were_given_are_kept(
    encoder: SentenceTransformer, tmp_path: Path
) -> None:
    pair = Pair("where does the otter eat ?", Passage("wild", "1", "", TEXTS[0]), (TEXTS[1],))

    (group,), _ = _mined(encoder, tmp_path / "vectors", [pair], [Passage("", "2", "", TEXTS[2])])

    assert group.passages == TEXTS[:3]


def test_passages_of_another_source_are_not_drawn(encoder: SentenceTransformer, tmp_path: Path) -> None:
    pair = Pair("where does the otter eat ?", Passage("wild", "1", "", TEXTS[0]))

    groups, mining = _mined(encoder, tmp_path / "vectors", [pair], [Passage("tame", "2", "", TEXTS[2])])

    assert not groups
    assert mining.tally.without == 1


def test_mining_again_gives_the_same_file(groups: Path, pairs: Path, corpus: Path, base: Path, tmp_path: Path) -> None:
    mine_file(corpus, pairs, tmp_path / "again.jsonl", MiningSettings(encoder=str(base), margin=2, twin=2), Witness())

    assert (tmp_path / "again.jsonl").read_bytes() == groups.read_bytes()
    assert not (tmp_path / "again.jsonl.partial").exists()


def test_it_sees_texts_as_the_service_does_with_the_prompts_of_a_card_or_others(
    pairs: Path, corpus: Path, base: Path, tmp_path: Path
) -> None:
    folder = silenced(Path(shutil.copytree(base, tmp_path / "intfloat" / "e5-small-v2")))
    name = str(folder)
    for asked in ({}, {"query": "where does it swim ? "}):
        wanted = {f"{role}_prompt": prompt for role, prompt in asked.items()}
        output = tmp_path / f"{len(asked)}.jsonl"
        mine_file(corpus, pairs, output, MiningSettings(encoder=name, margin=2, twin=2, **wanted), Witness())  # type: ignore[arg-type]  # of many types
        served = open_encoder(name, ModelOptions(prompts={name: asked}))  # type: ignore[dict-item]
        assert served.prompts == {"query": "query: ", "document": "passage: "} | asked
        for group in read_groups(output)[:3]:
            (query,) = served.encode(served.tokenize([group.query], "query"))
            passages = served.encode(served.tokenize(group.passages, "document"))
            assert passages @ query == pytest.approx(group.dense, abs=0.02)


def test_an_interrupted_mining_goes_on_with_the_vectors_it_had(
    groups: Path, pairs: Path, corpus: Path, base: Path, tmp_path: Path
) -> None:
    class Impatient(Witness):
        def advance(self, what: str, done: int, total: int, note: str = "") -> None:
            if what == "mining tame" and done == 5:
                raise KeyboardInterrupt

    output, wanted = tmp_path / "groups.jsonl", MiningSettings(encoder=str(base), margin=2, twin=2)
    with pytest.raises(KeyboardInterrupt):
        mine_file(corpus, pairs, output, wanted, Impatient())
    vectors = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npy")}
    assert vectors
    assert not output.exists()

    with pytest.raises(TrainingError, match="--dense was 4, now 5"):
        mine_file(corpus, pairs, output, MiningSettings(encoder=str(base), margin=2, twin=2, dense=5), Witness())

    class Onlooker(Witness):
        def advance(self, what: str, done: int, total: int, note: str = "") -> None:
            assert vectors.items() <= {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npy")}.items()

    mine_file(corpus, pairs, output, wanted, Onlooker())
    assert output.read_bytes() == groups.read_bytes()


def test_two_runs_do_not_work_in_one_folder_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.training.run import Plan, Run; "
        "run = Run(Path(sys.argv[1]), Plan('mine', [], {}, {}, {}, [])); print('works', flush=True); sys.stdin.read()"
    )
    output = tmp_path / "groups.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout
        assert first.stdout.readline() == "works\n"
        with pytest.raises(TrainingError, match="Another run works in"):
            Run(output, Plan("mine", [], {}, {}, {}, []))
        first.communicate("", timeout=30)
    assert Run(output, Plan("mine", [], {}, {}, {}, [])).resumed


def test_a_source_may_have_a_name_that_no_file_can_have(
    groups: Path, pairs: Path, corpus: Path, base: Path, tmp_path: Path
) -> None:
    (named := tmp_path / "named.jsonl").write_text(
        lines(json.loads(line) | {"source": "сказки " * 20} for line in (pairs / "wild.jsonl").read_text().splitlines())
    )
    output = tmp_path / "groups.jsonl"

    mine_file(corpus, named, output, MiningSettings(encoder=str(base), margin=2, twin=2), Witness())

    assert {group.source for group in read_groups(output)} == {"сказки " * 20}


def test_an_existing_file_is_not_overwritten(pairs: Path, corpus: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.jsonl").write_text("mine")

    with pytest.raises(TrainingError, match="exists"):
        mine_file(corpus, pairs, tmp_path / "groups.jsonl", MiningSettings(encoder=str(base)), Witness())
    assert (tmp_path / "groups.jsonl").read_text() == "mine"


def test_the_share_of_a_querys_words_lies_between_none_and_all() -> None:
    lexicon = Lexicon(["rivers carry salt", "bread needs salt and water", "tides rise"], "english")

    shares = lexicon.shares("salty rivers")

    assert shares[0] > shares[1] == shares[2] == 0 or shares[0] > shares[1] > shares[2] == 0
    assert (shares < 1).all()
    assert lexicon.shares("zebra").tolist() == [0, 0, 0]
    assert lexicon.shares("rivers")[0] > lexicon.shares("rivers zebra")[0] > 0
