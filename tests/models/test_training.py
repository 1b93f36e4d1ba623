"""The training commands, run for real on a handful of pairs and a model of two small layers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, BertTokenizer

from models.training.__main__ import main
from models.training.mine import Group, MiningSettings, mine, read_groups
from models.training.pairs import Pair, Passage, read_pairs, sample
from models.training.reranker import ResidualListLoss, fit_blend, split

ANIMALS = ("badger", "heron", "otter", "weasel", "lizard", "falcon", "salmon", "beetle")
FACTS = ("eats at night", "sleeps in the reeds", "swims under ice", "hides from rain")
WORDS = sorted({word for phrase in (*ANIMALS, *FACTS, "what does the do where it ?") for word in phrase.split()})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained sentence encoder that knows the words of these tests."""
    bare, folder = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(1)
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
    ).save_pretrained(bare)
    BertTokenizer(vocab=vocabulary).save_pretrained(bare)
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), Normalize()], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs: one source plain, one packed."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "wild.jsonl").write_text("".join(_lines("wild", ANIMALS[:4])), encoding="utf-8")
    with gzip.open(folder / "tame.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(_lines("tame", ANIMALS[4:]))
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory, pairs: Path, base: Path) -> Path:
    """What mining with the base model finds."""
    output = tmp_path_factory.mktemp("mined") / "groups.jsonl"
    main(["mine", str(pairs), str(base), str(output), "--take", "wild=16", "tame=16", "--margin", "2", "--twin", "2"])
    return output


def test_pairs_are_read_plain_and_packed_in_the_order_asked_for(pairs: Path) -> None:
    found = read_pairs(pairs, ["tame", "wild"])

    assert [pair.source for pair in found] == ["tame"] * 16 + ["wild"] * 16
    assert found[0].query == "what does the lizard do ?"
    assert found[0].passage.titled == "lizard\nthe lizard eats at night"


def test_a_sample_keeps_to_the_caps_and_repeats_with_its_seed(pairs: Path) -> None:
    every = read_pairs(pairs, ["tame", "wild"])

    first, again, other = (sample(every, {"tame": 5, "wild": 9}, seed) for seed in (1, 1, 2))

    assert {source: len(found) for source, found in first.items()} == {"tame": 5, "wild": 9}
    assert first == again != other


def test_a_mined_group_starts_with_the_answer_and_holds_no_other_answer_to_its_query(groups: Path, pairs: Path) -> None:
    answers: dict[str, set[str]] = {}
    for pair in read_pairs(pairs, ["wild", "tame"]):
        answers.setdefault(pair.query, set()).add(pair.passage.text)

    found = read_groups(groups)

    assert len(found) == 32
    for group in found:
        positive, *negatives = group.passages
        assert positive in answers[group.query]
        assert not answers[group.query].intersection(negatives)
        assert len(negatives) == len(set(negatives)) == len(group.dense) - 1


def test_a_passage_that_outscores_the_answer_beyond_the_margin_is_no_negative(base: Path, pairs: Path) -> None:
    every = read_pairs(pairs, ["wild"])
    encoder = SentenceTransformer(str(base), device="cpu")
    settings = MiningSettings(margin=0.0, twin=2.0)

    for group in mine({"wild": every}, every, [], encoder, settings):
        assert max(group.dense[1:]) <= group.dense[0] + 1e-4


def test_another_answer_that_was_not_sampled_is_still_no_negative(base: Path, pairs: Path) -> None:
    every = read_pairs(pairs, ["wild"])
    encoder = SentenceTransformer(str(base), device="cpu")
    answers = {pair.passage.text for pair in every if pair.query == every[0].query}
    settings = MiningSettings(dense=30, lexical=30, margin=2.0, twin=2.0)

    (group,) = mine({"wild": every[:1]}, every, [], encoder, settings)

    assert not answers.intersection(group.passages[1:])


def test_passages_that_answer_nothing_are_mined_too(base: Path) -> None:
    pair = Pair("where does the otter eat ?", Passage("wild", "1", "", "the otter eats in the reeds"))
    stray = Passage("wild", "2", "", "the otter sleeps under ice")
    settings = MiningSettings(margin=2.0, twin=2.0)

    (group,) = mine({"wild": [pair]}, [pair], [stray], SentenceTransformer(str(base), device="cpu"), settings)

    assert group.passages == [pair.passage.text, stray.text]


def test_a_trained_encoder_is_stored_small_loads_whole_and_reads_512_tokens(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "encoder"
    _train_encoder(pairs, base, output)

    model = SentenceTransformer(str(output), device="cpu")

    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float16}
    assert next(model.parameters()).dtype == torch.float32
    assert model.max_seq_length == 512
    assert len(Tokenizer.from_file(str(output / "tokenizer.json")).encode("otter " * 700)) == 702
    assert not any(str(tmp_path) in path.read_text() or str(base) in path.read_text() for path in output.glob("*.json"))


def test_a_trained_encoder_moved_and_its_word_embeddings_did_not(base: Path, pairs: Path, tmp_path: Path) -> None:
    _train_encoder(pairs, base, tmp_path / "encoder")

    before = SentenceTransformer(str(base), device="cpu").state_dict()
    after = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").state_dict()

    moved = {name for name, value in after.items() if not torch.allclose(value, before[name], atol=1e-3)}
    assert moved
    assert not any("word_embeddings" in name for name in moved)


def test_an_encoder_that_goes_no_share_of_the_way_stays_the_base_model(base: Path, pairs: Path, tmp_path: Path) -> None:
    _train_encoder(pairs, base, tmp_path / "encoder", "--share", "0")

    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode("the otter swims under ice")
        for folder in (base, tmp_path / "encoder")
    )

    np.testing.assert_allclose(before, after, atol=2e-3)


def test_an_existing_output_is_refused_before_training(base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists"):
        _train_encoder(pairs, base, tmp_path)


def test_a_trained_reranker_gives_raw_logits_and_stands_beside_its_blend(
    base: Path, groups: Path, tmp_path: Path
) -> None:
    output = tmp_path / "reranker"
    main(["reranker", str(groups), str(base), str(output), "--steps", "2", "--batch", "4"])

    model = CrossEncoder(str(output), device="cpu")
    blend = json.loads((output / "blend.json").read_text())

    assert isinstance(model.activation_fn, torch.nn.Identity)
    assert (model.num_labels, model.max_seq_length) == (1, 512)
    assert set(blend) == {"rerank", "dense"}
    assert blend["rerank"] == 1.0
    assert blend["dense"] == pytest.approx(15, abs=1)

    main(["blend", str(groups), str(output), str(base)])
    assert json.loads((output / "blend.json").read_text()) != blend


def test_the_reranker_is_trained_on_what_the_cosine_leaves_undone(base: Path) -> None:
    loss = ResidualListLoss(CrossEncoder(str(base), num_labels=1, device="cpu"), dense=50.0, width=2)
    inputs = (["what does the otter do ?"], [["the otter eats at night", "the heron hides from rain"]])

    settled = loss(inputs, [torch.tensor([0.9, 0.1])])
    mistaken = loss(inputs, [torch.tensor([0.1, 0.9])])

    assert settled.item() < 0.01 < 10 < mistaken.item()


def test_a_blend_leans_on_the_cosine_as_far_as_it_is_right(base: Path) -> None:
    encoder = SentenceTransformer(str(base), device="cpu")
    reranker = CrossEncoder(str(base), num_labels=1, device="cpu")
    texts = [f"the {animal} eats at night" for animal in ANIMALS]
    right = [Group("wild", text, [text, *texts[:at], *texts[at + 1 :]], []) for at, text in enumerate(texts)]

    assert fit_blend(reranker, encoder, right) > 15


def test_held_out_groups_share_no_query_with_the_others(groups: Path) -> None:
    trained, held_out = split(read_groups(groups), 2, seed=3)

    assert held_out
    assert not {group.query for group in trained} & {group.query for group in held_out}
    assert len(trained) + len(held_out) == 32


def _lines(source: str, animals: tuple[str, ...]) -> list[str]:
    rows = [
        {
            "source": source,
            "query": f"what does the {animal} do ?",
            "positive": f"the {animal} {fact}",
            "positive_id": f"{animal}-{at}",
            "title": animal,
        }
        for animal in animals
        for at, fact in enumerate(FACTS)
    ]
    return [json.dumps(row) + "\n" for row in rows]


def _train_encoder(pairs: Path, base: Path, output: Path, *more: str) -> None:
    options = ["--take", "wild=16", "tame=16", "--dims", "32", "16", "--steps", "2", "--batch", "4", "--rate", "0.01"]
    main(["encoder", str(pairs), str(base), str(output), *options, *more])
