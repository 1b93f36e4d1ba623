"""`winnow train late`: what an encoder needs to compare token by token, read off sample texts."""

from __future__ import annotations

import json
import shutil
from math import log
from pathlib import Path

import numpy as np
import pytest

from models.catalog import open_encoder
from models.late_head import nearness, read_late
from models.training.errors import TrainingError
from models.training.late import late_file
from models.training.settings import LateSettings
from models.types import ModelOptions, TokenQuery
from tests.models.folders import silenced
from tests.models.training.conftest import ANIMALS, FACTS, ONE_CORE, Witness

TORCH = ModelOptions(device="cpu", runtime="torch", precision="float32")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "animals.jsonl"
    rows = [{"_id": f"{animal} {fact}", "text": f"the {animal} {fact}"} for animal in ANIMALS for fact in FACTS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(base: Path, **more: object) -> LateSettings:
    return LateSettings(**({"encoder": str(base), "width": 8, **ONE_CORE} | more))  # type: ignore[arg-type]


def test_an_encoder_learns_to_compare_token_by_token(base: Path, texts: Path, tmp_path: Path, witness: Witness) -> None:
    found = late_file(texts, tmp_path / "out", settings(base), witness)
    assert found.tokens == sum(len(f"the {animal} {fact}".split()) for animal in ANIMALS for fact in FACTS)
    assert 0.5 < found.kept <= 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert found.told() in card.partition("## Changed since by `winnow train late`")[2]
    encoder = open_encoder(str(tmp_path / "out"), ModelOptions(device="cpu", runtime="torch", precision="float32"))
    assert encoder.late is not None
    assert (encoder.late.layer, encoder.late.width) == (1, 8)
    assert encoder.fingerprint == open_encoder(str(base), ModelOptions(device="cpu", runtime="torch")).fingerprint
    (asked,) = encoder.tokenize(["where does the otter sleeps"], "query")
    wholes = encoder.encode_whole([asked, *encoder.tokenize(["the otter sleeps", "the heron eats"], "document")])
    query = TokenQuery(wholes[0].tokens, encoder.late.weights(asked.ids[encoder.inside(asked)]))
    otter, heron = nearness(query, [each.tokens for each in wholes[1:]])
    assert otter > heron


def test_it_is_measured_with_the_prompts_that_it_is_served_with_and_they_are_saved(
    base: Path, texts: Path, tmp_path: Path, witness: Witness
) -> None:
    """A folder that says nothing of prompts gets those of the card that is named like it."""
    known = silenced(Path(shutil.copytree(base, tmp_path / "intfloat" / "e5-small-v2")))
    late_file(texts, tmp_path / "plain", settings(base), witness)
    late_file(texts, tmp_path / "card", settings(known), witness)
    late_file(texts, tmp_path / "asked", settings(known, query_prompt="where ? ", document_prompt=""), witness)

    served, copied = (open_encoder(str(folder), TORCH) for folder in (known, tmp_path / "card"))
    assert copied.prompts == served.prompts == {"query": "query: ", "document": "passage: "}
    assert copied.fingerprint == served.fingerprint
    assert open_encoder(str(tmp_path / "asked"), TORCH).prompts == {"query": "where ? ", "document": ""}
    plain, card, asked = (read_late(tmp_path / name) for name in ("plain", "card", "asked"))
    assert plain
    assert card
    assert asked
    assert not np.array_equal(card.mean, plain.mean)
    np.testing.assert_array_equal(asked.mean, plain.mean)


def test_of_a_text_no_more_is_read_than_an_encoder_has_positions_for(
    base: Path, tmp_path: Path, witness: Witness
) -> None:
    (long := tmp_path / "long.jsonl").write_text(json.dumps({"_id": "1", "text": "the otter eats at night " * 200}))
    found = [late_file(long, tmp_path / f"{tokens}", settings(base, tokens=tokens), witness) for tokens in (512, 900)]
    assert [each.tokens for each in found] == [510, 510]


def test_rarity_is_counted_as_bm25_counts_it(base: Path, texts: Path, tmp_path: Path, witness: Witness) -> None:
    late_file(texts, tmp_path / "out", settings(base), witness)
    head, encoder = read_late(tmp_path / "out"), open_encoder(str(base), ModelOptions(device="cpu", runtime="torch"))
    assert head is not None
    vocabulary, every = encoder.tokenizer.get_vocab(), len(ANIMALS) * len(FACTS)
    for word, having in (("the", every), ("otter", len(FACTS)), ("night", len(ANIMALS)), ("?", 0)):
        expected = log(1 + (every - having + 0.5) / (having + 0.5))
        assert head.rarity[vocabulary[word]] == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_pairs_will_do_as_texts_and_the_same_seed_gives_the_same(base: Path, tmp_path: Path, witness: Witness) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"query": f"where is the {animal}", "positive": f"the {animal} hides"} for animal in ANIMALS]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    heads = []
    for name in ("a", "b"):
        late_file(pairs, tmp_path / name, settings(base, count=5, read=3), witness)
        heads.append(read_late(tmp_path / name))
    assert "Counting tokens in 5 texts of 1 sources." in witness.said
    one, other = heads
    assert one is not None
    assert other is not None
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.rarity, other.rarity)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"layer": 3}, "--layer is 3, and the encoder has 2 layers"), ({"width": 33}, "a state has 32 numbers"),
     ({"width": 0}, "--width must be above 0"), ({"read": 0}, "--read must be above 0")],
)  # fmt: skip
def test_what_can_not_be_is_refused(
    base: Path, texts: Path, tmp_path: Path, witness: Witness, wrong: dict[str, int], told: str
) -> None:
    with pytest.raises(TrainingError, match=told):
        late_file(texts, tmp_path / "out", settings(base, **wrong), witness)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_an_empty_file_is_named(
    base: Path, texts: Path, tmp_path: Path, witness: Witness
) -> None:
    with pytest.raises(TrainingError, match="exists"):
        late_file(texts, base, settings(base), witness)
    (empty := tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(TrainingError, match=r"There are no texts in .*empty\.jsonl"):
        late_file(empty, tmp_path / "out", settings(base), witness)
