from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.quality.calibrate import Asked, Basis, Question, TooLittle, _halves, asked, calibrate
from app.quality.types import Query
from app.types import Fusion
from models.types import Blend

BASIS = Basis(
    collection="papers",
    mode="dense",
    encoder="encoder's mark",
    reranker="reranker's mark",
    reranker_name="acme/reranker",
    sparse="sparse encoder's mark",
    late="",
    blend=Blend(),
    unreranked=None,
    fusion=Fusion(),
)


def answered(number: int, rerank: float, *, near: float = 0.3, answer: bool = True, judged_only: bool = False) -> Asked:
    """A question whose first document is relevant, and nearer by as much, by default than any other; the reranker adds
    so much for it."""
    draw = np.random.default_rng(number)
    cosines, noise = draw.uniform(0.2, 0.5, 12) + near * (np.arange(12) == 0) * answer, draw.normal(0, 1, 12)
    scores: list[dict[str, Any]] = [
        {"dense": {"score": float(cosine)}, "rerank": {"score": float(own + rerank * (place == 0))}}
        for place, (cosine, own) in enumerate(zip(cosines, noise, strict=True))
    ]
    hits = [{"document_id": f"d{place}", "stages": stages} for place, stages in enumerate(scores)]
    grades = {"d0": 1, "d1": 0} if answer else {}
    question = Question(Query(f"q{number}", "?"), grades, int(answer))
    return asked(question, {"hits": hits}, BASIS, judged_only=judged_only)


def test_a_reranker_that_helps_is_left_alone() -> None:
    found, findings = calibrate([answered(number, 6) for number in range(60)], BASIS, 12, 0)
    assert (found.rerank, found.advice) == (True, "")
    marks = found.encoder, found.reranker, found.sparse
    assert (found.mode, *marks) == ("dense", "encoder's mark", "reranker's mark", "sparse encoder's mark")
    assert found.blend == (findings.refitted if findings.taken else None)


def test_a_reranker_that_throws_dice_is_named() -> None:
    found, findings = calibrate([answered(number, 0) for number in range(60)], BASIS, 12, 0)
    orders = {each.name: each.ndcg.mean for each in findings.orders}
    assert orders["reranker alone"] < orders["first stage"] - 0.2
    assert findings.refitted.dense > 0
    assert not found.rerank
    assert "the reranker acme/reranker" in found.advice


def test_a_blend_that_is_no_better_than_the_rerankers_own_is_not_taken() -> None:
    found, findings = calibrate([answered(number, 20) for number in range(60)], BASIS, 12, 0)
    orders = {each.name: each.ndcg.mean for each in findings.orders}
    assert orders["refitted blend"] == orders["own blend"] == 1
    assert not findings.taken
    assert found.blend is None


def test_a_reranker_that_is_worse_alone_and_adds_to_the_first_stage_is_not_named() -> None:
    found, findings = calibrate([answered(number, 1.5, near=0.15) for number in range(60)], BASIS, 12, 0)
    orders = {each.name: each.ndcg.mean for each in findings.orders}
    assert orders["reranker alone"] < orders["first stage"]
    assert orders["refitted blend"] > max(orders["first stage"], orders["blend without the reranker"])
    assert (found.rerank, found.advice) == (True, "")


@pytest.mark.parametrize("seed", range(5))
def test_each_half_has_its_share_of_questions_that_nothing_answers(seed: int) -> None:
    every = [answered(number, 3, answer=number % 4 > 0) for number in range(60)]
    assert [sum(not each.question.held for each in half) for half in _halves(every, seed)] == [8, 7]


def test_the_same_seed_finds_the_same() -> None:
    every = [answered(number, 3, answer=number % 4 > 0) for number in range(60)]
    first, again = (calibrate(every, BASIS, 12, 5) for _ in range(2))
    assert first == again
    assert first[1].unanswerable in (7, 8)
    assert first[1].fitting + first[1].measuring == 60
    assert calibrate(every, BASIS, 12, 6)[0] != first[0]


def test_unjudged_documents_do_not_count_when_that_is_wanted() -> None:
    assert answered(0, 1).counted == {f"d{place}" for place in range(12)}
    assert answered(0, 1, judged_only=True).counted == {"d0", "d1"}
    assert len(answered(0, 1, answer=False, judged_only=True).counted) == 12
    _, findings = calibrate([answered(number, 3, judged_only=True) for number in range(60)], BASIS, 12, 0)
    assert findings.reranked.reliability.candidates.hits == 60


def sparsely(number: int, *, found: bool) -> Asked:
    """A question whose only label is of a document that is among the candidates, or of one that is not."""
    each = answered(number, 3, judged_only=True)
    return each if found else replace(each, relevant=np.zeros(12, bool), counted=set())


def test_questions_none_of_whose_judged_documents_were_found_are_left_out_and_counted() -> None:
    every = [sparsely(number, found=number >= 20) for number in range(60)]
    _, findings = calibrate(every, BASIS, 12, 0)
    assert findings.fitting + findings.measuring == 40
    assert any("20 queries have none of their judged documents among the candidates" in w for w in findings.warnings)


def test_too_few_questions_with_judged_documents_among_their_candidates_teach_nothing() -> None:
    every = [sparsely(number, found=number >= 50) for number in range(60)]
    with pytest.raises(TooLittle, match="50 more have none of their judged documents among the candidates"):
        calibrate(every, BASIS, 12, 0)


@pytest.mark.parametrize(("amount", "answer", "told"), [(10, True, "20 are the least"), (40, False, "answers 0 of")])
def test_too_few_labels_teach_nothing(amount: int, answer: bool, told: str) -> None:
    with pytest.raises(TooLittle, match=told):
        calibrate([answered(number, 3, answer=answer) for number in range(amount)], BASIS, 12, 0)
