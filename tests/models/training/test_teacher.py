"""Teaching a reranker by an encoder whose token vectors are compared one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from models.folder import hash_folder
from models.training.errors import TrainingError
from models.training.groups import Group
from models.training.reranker import Imitation, ResidualListLoss, imitation_loss, train_reranker
from models.training.settings import RerankerSettings
from models.training.teacher import Teacher, nearness
from models.types import ModelError
from tests.models.training.conftest import ONE_CORE, Witness

QUERY = "what does the otter do ?"
TEXTS = ["the otter eats at night", "the heron hides from rain", "the salmon swims under ice"]


@pytest.fixture(scope="module")
def encoder(base: Path) -> SentenceTransformer:
    return SentenceTransformer(str(base), device="cpu").eval()


def _group(query: str = QUERY, source: str = "wild") -> Group:
    return Group(source, query, TEXTS, [0.5] * 3, [0.5] * 3)


def test_each_token_of_the_query_counts_by_its_nearest_one_and_its_rarity() -> None:
    query, passage = torch.eye(3)[:2], torch.eye(3)[1:]

    assert nearness(query, passage, torch.tensor([1.0, 1.0])) == 0.5
    assert nearness(query, passage, torch.tensor([1.0, 3.0])) == 0.75
    assert nearness(query, torch.zeros(0, 3), torch.tensor([1.0, 1.0])) == 0.0


def test_a_passage_that_is_the_query_is_as_near_as_can_be(encoder: SentenceTransformer) -> None:
    group = Group("wild", TEXTS[0], TEXTS, [0.5] * 3, [0.5] * 3)

    (opinion,) = Teacher(encoder, 0, 64, Witness()).opinions([group])

    assert opinion[0] == pytest.approx(1, abs=1e-2)
    assert max(opinion[1:]) < 0.95


def test_opinions_come_in_the_order_of_the_groups_whatever_their_sources(encoder: SentenceTransformer) -> None:
    teacher, groups = Teacher(encoder, 1, 64, Witness()), [_group(), _group(source="tame"), _group(TEXTS[2])]

    alone = [teacher.opinions([group]) for group in (groups[0], groups[1])]

    assert teacher.opinions(groups)[1] == pytest.approx(alone[1][0], abs=1e-3)
    assert teacher.opinions(groups)[2].index(max(teacher.opinions(groups)[2])) == 2


def test_layers_think_differently_and_there_are_no_more_than_there_are(encoder: SentenceTransformer) -> None:
    first, last = (Teacher(encoder, layer, 64, Witness()).opinions([_group()]) for layer in (1, 0))

    assert first != last
    assert last == Teacher(encoder, 2, 64, Witness()).opinions([_group()])
    with pytest.raises(TrainingError, match="has 2 layers"):
        Teacher(encoder, 3, 64, Witness())


def test_a_teacher_reads_no_more_than_it_has_positions_for(encoder: SentenceTransformer) -> None:
    long = Group("wild", QUERY, ["the otter eats at night " * 200, *TEXTS], [0.5] * 4, [0.5] * 4)

    assert Teacher(encoder, 0, 900, Witness()).opinions([long]) == Teacher(encoder, 0, 512, Witness()).opinions([long])


def test_whoever_thinks_as_the_teacher_does_has_nothing_to_learn() -> None:
    ours, theirs = [torch.tensor([2.0, 1.0, 0.0])], [torch.tensor([3.0, 2.0, 1.0])]

    assert imitation_loss(ours, theirs).item() == pytest.approx(0, abs=1e-6)
    assert imitation_loss(ours, [torch.tensor([0.0, 1.0, 2.0])]).item() > 0.5


def test_a_loss_with_a_teacher_draws_the_order_towards_its_opinion(base: Path) -> None:
    torch.manual_seed(3)
    model: CrossEncoder = CrossEncoder(str(base), num_labels=1, activation_fn=torch.nn.Identity(), device="cpu")
    loss = ResidualListLoss(model, (1.0, 1.0), 4, Imitation((1.0, 1.0, 10.0), 1.0))
    even = [0.5, 0.5, 0.5, 0.5]

    agreed, opposed = (
        loss(([QUERY], [TEXTS[:2]]), [torch.tensor([*even, *opinion])]).item() for opinion in ([1.0, 0.0], [0.0, 1.0])
    )

    assert agreed != pytest.approx(opposed)


def test_a_training_with_a_teacher_says_so_and_asks_it_once(base: Path, groups: Path, tmp_path: Path) -> None:
    settings = RerankerSettings(
        base=str(base), teacher=str(base), teacher_layer=1, steps=2, batch=4, held_out=4, apart="queries",
        **ONE_CORE,  # type: ignore[arg-type]  # of many types
    )  # fmt: skip
    witness = Witness()

    report = train_reranker(groups, tmp_path / "taught", settings, witness)

    assert report.plan.models == {name: hash_folder(base, {}) for name in (str(base), f"teacher {base}")}
    assert next(iter(report.plan.models)) == str(base)
    assert any(name.startswith("teacher reads") for name in witness.done)
    assert "--teacher=" in (report.output / "README.md").read_text()
    with pytest.raises(ModelError):
        train_reranker(groups, tmp_path / "other", RerankerSettings(base=str(base), teacher="/nowhere"), Witness())
