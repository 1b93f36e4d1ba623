"""A head behind an encoder: the first numbers of its vectors learn to say what all of them said."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor
from torch.nn.functional import normalize

from models.catalog import open_encoder
from models.training import judge
from models.training.errors import TrainingError
from models.training.head import Examples, Head, distillation, fit_head, train_head
from models.training.settings import HeadSettings
from tests.models.training.conftest import ONE_CORE, Witness, save_base

QUICK = {"steps": 20, "batch": 8, "hidden": 96, "held_out": 4, "apart": "queries", "dims": "32,8"} | ONE_CORE


def _settings(**more: object) -> HeadSettings:
    return HeadSettings(**QUICK | more)  # type: ignore[arg-type]  # of many types


def _vectors(count: int, seed: int) -> Tensor:
    """Unit vectors on a curved surface of three dimensions, which a prefix of four can follow and a rotation can't."""
    draw, surface = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    bend, spread = torch.randn(3, 24, generator=surface), torch.randn(24, 32, generator=surface)
    return normalize(torch.tanh(2 * torch.randn(count, 3, generator=draw) @ bend) @ spread, dim=1)


def test_a_head_begins_as_a_rotation_that_changes_no_cosine() -> None:
    vectors = _vectors(50, seed=1)

    with torch.no_grad():
        turned = Head(vectors, hidden=80, scale=2.0)(vectors)

    assert torch.allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-5)


def test_a_fitted_prefix_ranks_unseen_vectors_more_like_the_whole(witness: Witness) -> None:
    torch.manual_seed(0)
    known, unseen = _vectors(1200, seed=2), _vectors(200, seed=3)
    examples = Examples(known[:600], known[600:], {"a": range(0, 300), "b": range(300, 600)})

    begun = Head(known, hidden=96, scale=2.0)
    head, _ = fit_head(examples, (32, 4), _settings(steps=200, batch=64, rate=3e-3), witness)

    with torch.no_grad():
        rotated, fitted = (float(distillation(each, unseen[:100], unseen[100:], (4,), 20.0)) for each in (begun, head))
        whole = float(distillation(head, unseen[:100], unseen[100:], (32,), 20.0))
    assert whole < fitted < 0.8 * rotated
    assert witness.done["fitting the head"] == (200, 200)


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory, base: Path, groups: Path) -> Path:
    output = tmp_path_factory.mktemp("headed") / "encoder"
    train_head(groups, output, _settings(base=str(base)), Witness())
    return output


def test_a_service_can_open_it_and_computes_what_the_library_does(headed: Path) -> None:
    encoder, library = open_encoder(str(headed)), SentenceTransformer(str(headed), device="cpu")
    texts = ["the otter swims under ice", "the heron sleeps"]

    vectors = encoder.encode(encoder.tokenize(texts, "document"))

    assert [type(module) for module in library].count(Dense) == 2
    assert np.allclose(vectors, library.encode_document(texts), atol=2e-2)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_the_prompts_that_it_was_fitted_with_are_saved(base: Path, groups: Path, tmp_path: Path) -> None:
    wanted = _settings(base=str(base), query_prompt="where does it swim ? ", document_prompt="it swims ")
    train_head(groups, tmp_path / "encoder", wanted, Witness())

    saved = open_encoder(str(tmp_path / "encoder")).prompts
    assert saved == {"query": "where does it swim ? ", "document": "it swims "}


def test_the_encoder_itself_stays_as_it_was(headed: Path, base: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (base, headed))
    assert all(torch.equal(after[name], value.half()) for name, value in before.items())
    assert open_encoder(str(headed)).fingerprint != open_encoder(str(base)).fingerprint


def test_the_card_tells_what_each_length_was_worth_before_and_after(headed: Path, base: Path) -> None:
    card = (headed / "README.md").read_text()
    assert "winnow train head" in card
    assert "ndcg@10 8" in card
    assert str(base) in card


def test_the_same_seed_gives_the_same_head(headed: Path, base: Path, groups: Path, tmp_path: Path) -> None:
    train_head(groups, tmp_path / "again", _settings(base=str(base)), Witness())
    for folder in ("3_Dense", "4_Dense"):
        first, second = (load_file(at / folder / "model.safetensors") for at in (headed, tmp_path / "again"))
        assert all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize(("positions", "tokens"), [(512, 16), (600, 600)])
def test_it_reads_as_much_as_its_base_does_and_both_are_judged_so(
    late_answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: int, tokens: int
) -> None:
    base = save_base(tmp_path / "base", positions, tokens)
    read, reading = list[int](), judge._reading

    def watched(amount: int, model: SentenceTransformer) -> AbstractContextManager[None]:
        read.append(amount)
        return reading(amount, model)

    monkeypatch.setattr(judge, "_reading", watched)

    train_head(late_answers, tmp_path / "encoder", _settings(base=str(base), steps=1, dims="32"), Witness())

    assert read == [tokens, tokens]
    assert SentenceTransformer(str(tmp_path / "encoder"), device="cpu").max_seq_length == tokens
    assert len(open_encoder(str(tmp_path / "encoder")).tokenize(["otter " * 700], "document")[0]) == tokens


def test_a_second_head_is_refused(headed: Path, groups: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has a head already"):
        train_head(groups, tmp_path / "second", _settings(base=str(headed)), Witness())


def test_a_head_too_narrow_to_begin_as_a_rotation_is_refused(base: Path, groups: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--hidden must be 64 or more"):
        train_head(groups, tmp_path / "narrow", _settings(base=str(base), hidden=63), Witness())
