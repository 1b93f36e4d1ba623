"""The model that ships learns a small real domain: fairy tales and questions about them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from models.training.encoder import train_encoder
from models.training.pairs import read_pairs
from models.training.settings import EncoderSettings
from tests.models.training.conftest import Witness

STORIES = Path(__file__).parents[2] / "data" / "stories"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The first 320 judged questions, enough for ten steps."""
    file = tmp_path / "pairs.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for pair in islice(read_pairs(STORIES), 320):
            found = {"query": pair.query, "positive": pair.passage.text, "positive_id": pair.passage.id}
            lines.write(json.dumps(found) + "\n")
    return file


def test_ten_steps_find_more_answers_to_questions_that_were_held_out(pairs: Path, tmp_path: Path) -> None:
    settings = EncoderSettings(batch=32, tokens=128, rate=1e-4, anchor=1.0, dims="384", apart="queries", device="cpu")

    report = train_encoder(pairs, tmp_path / "trained", settings, Witness())

    assert report.fitted.steps == 10
    assert report.after["ndcg@10 384"] > report.before["ndcg@10 384"] + 0.02
    assert report.after["recall@10 384"] >= report.before["recall@10 384"]
