"""That cards are sound, and that what they say of prompts is done."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from models import cards
from models.cards import Card, all_cards, find, known_as, near
from models.catalog import locate, open_encoder, open_reranker
from models.torch_runtime import TorchEncoder
from models.types import BiEncoder, ModelError, ModelOptions
from tests.models import tiny
from tests.models.folders import SETTINGS, edit, silenced

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXACT = ModelOptions(precision="float32")


def on_hub(cache: Path, name: str, folder: Path) -> ModelOptions:
    """Puts a folder where the hub library would have fetched that name to."""
    home = cache / f"models--{name.replace('/', '--')}"
    silenced(Path(shutil.copytree(folder, home / "snapshots" / COMMIT)))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return ModelOptions(precision="float32", cache=cache, offline=True)


def test_every_card_is_read_and_no_two_are_of_one_model() -> None:
    names = [name for card in all_cards() for name in (card.name, card.formerly) if name]
    assert len(names) == len(set(names)) > 60
    assert {card.kind for card in all_cards()} == {"encoder", "sparse", "cross-encoder", "late-interaction"}


@pytest.mark.parametrize("card", all_cards(), ids=lambda card: card.name)
def test_a_card_says_what_can_be_true(card: Card) -> None:
    assert card.name.count("/") == 1
    assert card.languages or card.multilingual
    assert all(
        size < (card.dimensions or 0) for size in [*card.matryoshka, *([card.shortest] if card.shortest else [])]
    )
    assert "{" not in "".join(card.prompts.values())
    assert card.role == "encoder" or not any(card.prompts.values())
    assert not card.choose.endswith(".")


@pytest.mark.parametrize("card", [card for card in all_cards() if card.instead], ids=lambda card: card.name)
def test_instead_of_a_refused_model_stands_one_of_its_role_that_opens(card: Card) -> None:
    other = find(card.instead or "")
    assert other is not None
    assert (other.role, other.obstacle) == (card.role, None)


def test_cards_name_no_addresses() -> None:
    for file in Path(cards.__file__).with_name("cards").iterdir():
        assert "://" not in file.read_text()


def test_an_instruction_without_a_place_in_a_prompt_is_no_card() -> None:
    with pytest.raises(ValueError, match="go together"):
        Card(name="a/b", family="a", kind="encoder", choose="x", source="y", instruction="find it")


def test_a_refusal_without_an_alternative_is_no_card() -> None:
    with pytest.raises(ValueError, match="take instead"):
        Card(name="a/b", family="a", kind="encoder", choose="x", source="y", own_code=True)


def test_a_model_is_found_by_its_old_name_too() -> None:
    assert find("cross-encoder/ms-marco-MiniLM-L-6-v2") is find("cross-encoder/ms-marco-MiniLM-L6-v2") is not None


def test_a_name_that_is_nearly_right_finds_what_was_meant() -> None:
    assert near("BAAI/bge-smal-en-v1.5")[0] == "BAAI/bge-small-en-v1.5"
    assert "intfloat/e5-base-v2" in near("e5-base")
    assert near("qqqq") == []


@pytest.mark.parametrize(
    "folder",
    ["models/intfloat/e5-small-v2", f"hub/models--intfloat--e5-small-v2/snapshots/{COMMIT}"],
)
def test_a_folder_is_known_by_what_it_is_called(tmp_path: Path, folder: str) -> None:
    card = known_as("./somewhere", tmp_path / folder)
    assert card is not None
    assert card.name == "intfloat/e5-small-v2"


def test_a_model_that_was_fine_tuned_from_a_known_one_is_not_taken_for_it(tmp_path: Path, encoder_folder: Path) -> None:
    folder = silenced(Path(shutil.copytree(encoder_folder, tmp_path / "mine")))
    edit(folder / "config.json", _name_or_path="intfloat/e5-small-v2")
    assert open_encoder(str(folder)).prompts == {"query": "", "document": ""}


def test_the_authors_prompts_stand_in_front_of_texts(tmp_path: Path, encoder_folder: Path) -> None:
    encoder = open_encoder("intfloat/e5-small-v2", on_hub(tmp_path, "intfloat/e5-small-v2", encoder_folder))
    assert encoder.prompts == {"query": "query: ", "document": "passage: "}
    theirs = SentenceTransformer(str(encoder_folder), device="cpu")
    for role, prompt in encoder.prompts.items():
        expected = theirs.encode(tiny.TEXTS, prompt=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(encoder.encode(encoder.tokenize(tiny.TEXTS, role)), expected, atol=1e-5)


def _word(encoder: BiEncoder) -> str:
    """One that is one token, however often: which numbers are words changes with each training of a tokenizer."""
    words = sorted(filter(str.isalpha, encoder.tokenizer.get_vocab()))
    return next(
        word for word in words if len(encoder.tokenizer.encode(f"{word} {word}", add_special_tokens=False)) == 2
    )


def test_a_prompt_takes_room_and_changes_the_fingerprint(tmp_path: Path, encoder_folder: Path) -> None:
    encoder = open_encoder("intfloat/e5-small-v2", on_hub(tmp_path, "intfloat/e5-small-v2", encoder_folder))
    plain = open_encoder(str(encoder_folder), EXACT)
    prompt = len(plain.tokenizer.encode("passage: ", add_special_tokens=False).ids)
    assert encoder.capacity == plain.capacity - prompt
    assert encoder.fingerprint != plain.fingerprint
    word = _word(plain)
    fitting, longer = encoder.tokenize(
        [" ".join([word] * encoder.capacity), " ".join([word] * (encoder.capacity + 1))], "document"
    )
    assert not fitting.truncated
    assert longer.truncated


def test_prompts_that_a_model_was_saved_with_go_before_those_of_its_card(tmp_path: Path, encoder_folder: Path) -> None:
    options = on_hub(tmp_path, "intfloat/e5-small-v2", encoder_folder)
    edit(next(tmp_path.rglob(SETTINGS)), prompts={"query": "ask: ", "passage": ""})
    assert open_encoder("intfloat/e5-small-v2", options).prompts == {"query": "ask: ", "document": ""}


def test_prompts_that_are_asked_for_go_before_all_others_and_change_the_fingerprint(encoders: dict[str, str]) -> None:
    name = encoders["xlm-roberta"]
    own, asked = open_encoder(name, EXACT), open_encoder(name, replace(EXACT, prompts={name: {"query": "Represent: "}}))
    assert asked.prompts == {"query": "Represent: ", "document": own.prompts["document"]}
    assert asked.fingerprint != own.fingerprint
    theirs = SentenceTransformer(name, device="cpu")
    expected = theirs.encode(tiny.TEXTS, prompt="Represent: ", normalize_embeddings=True)
    np.testing.assert_allclose(asked.encode(asked.tokenize(tiny.TEXTS, "query")), expected, atol=1e-5)
    assert open_encoder(name, replace(EXACT, prompts={"another": {"query": "Represent: "}})).prompts == own.prompts
    assert open_encoder(name, replace(EXACT, prompts={name: {"query": ""}})).prompts["query"] == ""


def test_a_card_fills_in_for_the_side_that_a_model_was_saved_without(tmp_path: Path, encoder_folder: Path) -> None:
    name = "intfloat/e5-mistral-7b-instruct"
    options = on_hub(tmp_path, name, encoder_folder)
    edit(next(tmp_path.rglob(SETTINGS)), prompts={"sts_query": "Instruct: Retrieve similar text\nQuery: "})
    card = find(name)
    assert card is not None
    assert open_encoder(name, options).prompts == card.prompts
    assert card.prompts["query"].startswith("Instruct: Given a web search query, ")


def test_what_could_not_be_opened_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(ModelError, match=r"code of its own.+choose Alibaba-NLP/gte-modernbert-base instead"):
        open_encoder("Alibaba-NLP/gte-base-en-v1.5")
    with pytest.raises(ModelError, match=r"out of pooling.+instead"):
        open_encoder("hkunlp/instructor-xl")


def test_a_known_model_is_refused_in_the_others_place_before_it_is_fetched() -> None:
    with pytest.raises(ModelError, match="of the kind cross-encoder, which can't serve as encoder"):
        open_encoder("BAAI/bge-reranker-base")
    with pytest.raises(ModelError, match="of the kind encoder, which can't serve as reranker"):
        open_reranker("BAAI/bge-m3")


def test_a_copy_on_disk_is_tried_whatever_its_card_says(tmp_path: Path, encoder_folder: Path) -> None:
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "Alibaba-NLP" / "gte-base-en-v1.5"))
    assert open_encoder(str(folder)).dimensions == 24


def test_a_reranker_may_still_be_trained_from_a_known_encoder(tmp_path: Path, encoder_folder: Path) -> None:
    options = on_hub(tmp_path, "intfloat/e5-small-v2", encoder_folder)
    assert locate("intfloat/e5-small-v2", "reranker", options).is_dir()


def test_a_chat_template_does_not_make_messages_of_texts(encoders: dict[str, str], tmp_path: Path) -> None:
    assert isinstance(open_encoder(encoders["qwen3"], ModelOptions(runtime="torch")), TorchEncoder)
    with pytest.raises(ModelError, match="reads chat messages"):
        open_encoder(str(tiny.save_encoder("qwen3", tmp_path / "chat", chat=True)))


def test_a_tokenizer_that_has_lost_the_token_that_is_pooled_is_refused(
    encoders: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(encoders["qwen3"], tmp_path / "e"))
    edit(folder / "tokenizer.json", post_processor=None)
    edit(folder / "tokenizer_config.json", add_eos_token=True)
    with pytest.raises(ModelError, match="pools the end token"):
        open_encoder(str(folder))
