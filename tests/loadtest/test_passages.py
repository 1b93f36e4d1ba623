from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from loadtest.passages import passages, questions
from loadtest.plain import ENCODER, decisive_reranker, older_encoder

MOST_TOKENS = 256
"""A default chunk: Winnow makes one of each passage, as the others do."""


@pytest.mark.parametrize("amount", [300, 2000])
def test_passages_have_about_170_tokens_and_fit_a_chunk(amount: int) -> None:
    tokenizer = Tokenizer.from_file(str(ENCODER / "tokenizer.json"))
    held = passages(amount)
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch([passage.text for passage in held])]
    assert len({passage.id for passage in held}) == len({passage.text for passage in held}) == amount
    assert 160 < statistics.mean(lengths) < 180
    assert max(lengths) <= MOST_TOKENS


def test_passages_and_questions_are_the_same_in_every_run() -> None:
    assert passages(50) == passages(50)
    assert questions() == questions()
    assert len(questions()) == 1139


def test_the_reranker_without_its_blend_is_the_same_otherwise(tmp_path: Path) -> None:
    folder = decisive_reranker(tmp_path / "reranker")
    assert not (folder / "blend.json").exists()
    assert (folder / "model.safetensors").stat().st_size > 0


def test_the_older_encoder_has_the_same_modules_in_older_words(tmp_path: Path) -> None:
    folder = older_encoder(tmp_path / "encoder")
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    kinds = ("Transformer", "Pooling", "Normalize", "Dense", "Dense", "Normalize")
    assert types == [f"sentence_transformers.models.{kind}" for kind in kinds]
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == 384
    assert (folder / "3_Dense" / "model.safetensors").read_bytes() == (
        ENCODER / "3_Dense/model.safetensors"
    ).read_bytes()
