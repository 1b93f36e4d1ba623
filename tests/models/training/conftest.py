from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizer

from models.training.mine import mine_file
from models.training.settings import MiningSettings

ANIMALS = ("badger", "heron", "otter", "weasel", "lizard", "falcon", "salmon", "beetle")
FACTS = ("eats at night", "sleeps in the reeds", "swims under ice", "hides from rain")
WORDS = sorted({word for phrase in (*ANIMALS, *FACTS, "what does the do where it ?") for word in phrase.split()})

ONE_CORE = {"device": "cpu", "threads": 1}
"""Where the same steps give the same bits: another number of threads adds up in another order."""


class Witness:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: dict[str, tuple[int, int]] = {}

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def advance(self, what: str, done: int, total: int, note: str = "") -> None:
        self.done[what] = (done, total)


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained sentence encoder that knows the words of these tests."""
    return save_base(tmp_path_factory.mktemp("base") / "model")


def save_base(folder: Path, positions: int = 512, tokens: int | None = None) -> Path:
    """Such an encoder, which has so many positions and reads so many tokens, by default as many."""
    bare = folder.with_name("bare")
    torch.manual_seed(1)
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=positions,
        )
    ).save_pretrained(bare)
    BertTokenizer(vocab=vocabulary, model_max_length=tokens or positions).save_pretrained(bare)
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), Normalize()], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs: one source plain, one packed, with the corpus beside them."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "wild.jsonl").write_text(lines(_rows("wild", ANIMALS[:4])), encoding="utf-8")
    with gzip.open(folder / "tame.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines(_rows("tame", ANIMALS[4:])))
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages that answer none of the pairs."""
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    file.write_text(lines({"_id": f"stray-{at}", "text": f"where the {fact} ?"} for at, fact in enumerate(FACTS)))
    return file


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory, pairs: Path, corpus: Path, base: Path) -> Path:
    """What mining with the base model finds."""
    output = tmp_path_factory.mktemp("mined") / "groups.jsonl"
    mine_file(corpus, pairs, output, MiningSettings(encoder=str(base), margin=2, twin=2), Witness())
    return output


@pytest.fixture(scope="session")
def late_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose passages begin alike, with some thirty words."""
    file = tmp_path_factory.mktemp("late") / "pairs.jsonl"
    told = [f"the {animal} {fact}" for animal in ANIMALS for fact in FACTS]
    file.write_text(lines({"query": each, "positive": f"{'where it does ? ' * 8}{each}"} for each in told))
    return file


def lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _rows(source: str, animals: tuple[str, ...]) -> list[dict[str, str]]:
    return [
        {
            "source": source,
            "query": f"what does the {animal} do ?" if at % 2 else f"where {fact} the {animal} ?",
            "positive": f"the {animal} {fact}",
            "positive_id": f"{animal}-{at}",
            "title": animal,
        }
        for animal in animals
        for at, fact in enumerate(FACTS)
    ]
