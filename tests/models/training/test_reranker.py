"""Training a reranker as a correction to the first stage, and fitting how the two add up."""

from __future__ import annotations

import json
import os
import re
import signal
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from torch import Tensor

from models import eight_bits
from models.catalog import locate, open_reranker
from models.conversions import converted
from models.converted import Source
from models.eight_bits import read_ranges
from models.folder import PRICE_FILE, RANGES_FILE, hash_folder, read_blends
from models.training import reranker
from models.training.blend import blend_file, fit_beside, fit_blend, scored, write_blends
from models.training.card import Report
from models.training.errors import Interrupted, TrainingError
from models.training.groups import Group, read_groups
from models.training.judge import RerankerJudge
from models.training.late import late_file
from models.training.lines import content_hash
from models.training.machine import Machine
from models.training.price import compared, price
from models.training.reranker import LOSSES, ResidualBinaryLoss, ResidualListLoss, ResidualLoss, divide, train_reranker
from models.training.rounding import ranges, rounding_file, write_rounding
from models.training.settings import BlendSettings, LateSettings, RerankerSettings, RoundingSettings
from models.types import NO_PROMPTS, Blend, Blends, ModelError, ModelOptions
from tests.models.training.conftest import ANIMALS, ONE_CORE, WORDS, Witness

QUICK = {"steps": 4, "batch": 4, "held_out": 4, "apart": "queries"} | ONE_CORE
HERE = Machine("cpu", bfloat16=False)
TEXTS = [f"the {animal} eats at night" for animal in ANIMALS]


def _settings(base: Path, **more: object) -> RerankerSettings:
    return RerankerSettings(**{"base": str(base)} | QUICK | more)  # type: ignore[arg-type]  # of many types


def _blend(encoder: Path, reranker: Path) -> BlendSettings:
    return BlendSettings(encoder=str(encoder), reranker=str(reranker), held_out=0, device="cpu")


@pytest.fixture(scope="module")
def untrained(base: Path) -> CrossEncoder:
    torch.manual_seed(3)
    model: CrossEncoder = CrossEncoder(str(base), num_labels=1, activation_fn=torch.nn.Identity(), device="cpu")
    return model


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, base: Path, groups: Path) -> Report:
    """Of a training without a break."""
    return train_reranker(groups, tmp_path_factory.mktemp("trained") / "reranker", _settings(base), Witness())


@pytest.fixture(scope="module")
def trained(report: Report) -> Path:
    return report.output


def test_it_gives_raw_logits_and_stands_beside_its_blends(trained: Path) -> None:
    model = CrossEncoder(str(trained), device="cpu")

    assert isinstance(model.activation_fn, torch.nn.Identity)
    assert (model.num_labels, model.max_seq_length) == (1, 512)
    assert read_blends(trained) != Blends()


def test_a_service_can_open_it(trained: Path) -> None:
    reranker = open_reranker(str(trained))

    scores = reranker.score(reranker.tokenize("what does the otter do ?", TEXTS))

    assert np.isfinite(scores).all()
    assert reranker.blends == read_blends(trained)


def test_it_says_what_8_bits_would_cost_it(trained: Path) -> None:
    told = json.loads((trained / PRICE_FILE).read_text())

    assert (told["measure"], told["queries"]) == ("nDCG@10", 3)
    assert -1 <= told["low"] <= told["difference"] <= told["high"] <= 1


def test_what_8_bits_cost_is_the_mean_difference_and_an_interval_around_it() -> None:
    exact = np.tile([1.0, 0.5], 200)
    rounded = exact - np.tile([0.0, 0.1, 0.0, 0.0], 100)

    found = compared(rounded, exact)

    assert found.difference == pytest.approx(-0.025)
    assert found.low == pytest.approx(-0.025 - 1.96 * 0.0433 / 20, abs=3e-4)
    assert found.high == pytest.approx(-0.025 + 1.96 * 0.0433 / 20, abs=3e-4)
    assert compared(exact, exact).told() == "8 bits change nDCG@10 by +0.0000 (95 % +0.0000 to +0.0000)."


def test_the_interval_around_a_price_takes_no_more_memory_for_more_queries() -> None:
    tracemalloc.start()
    try:
        compared(np.zeros(5000), np.zeros(5000))
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_the_price_of_8_bits_is_that_of_the_order_with_the_first_stage(groups: Path) -> None:
    """Where the first stage alone decides, rounding changes nothing."""
    embedded, found = locate("embedded", "reranker", ModelOptions()), read_groups(groups)

    told = price(embedded, found, (1e6, 0.0), ModelOptions("cpu", threads=1, runtime="openvino"))

    assert (told.queries, told.difference, told.low, told.high) == (len(found), 0, 0, 0)


def test_a_reranker_can_be_fitted_for_8_bits_afterwards(
    trained: Path, groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bits, "SMALLEST", 8)
    watch = Witness()

    told = rounding_file(groups, tmp_path / "rounded", RoundingSettings(reranker=str(trained), held_out=0), watch)

    assert json.loads((tmp_path / "rounded" / PRICE_FILE).read_text())["difference"] == told.difference
    assert told.queries == len(read_groups(groups))
    assert read_ranges(tmp_path / "rounded")
    assert told.told() in watch.said
    with pytest.raises(TrainingError, match="exists"):
        rounding_file(groups, tmp_path / "rounded", RoundingSettings(reranker=str(trained)), watch)


def test_what_can_not_be_opened_has_no_price(groups: Path, tmp_path: Path) -> None:
    found = read_groups(groups)
    with pytest.raises(ModelError):
        write_rounding(tmp_path, found, found, (1.0, 0.0), 1, Witness())
    assert not (tmp_path / PRICE_FILE).exists()


def test_ranges_are_those_of_whatever_came_into_a_layer(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One text more can only widen them."""
    monkeypatch.setattr(eight_bits, "SMALLEST", 8)
    options = ModelOptions("cpu", "float32", runtime="openvino")
    network = converted(Source("trained", trained, "reranker", options, NO_PROMPTS)).network
    texts = open_reranker(str(trained), options).tokenize("what does the otter do ?", TEXTS)

    all_of_them, each = ranges(network, texts, Witness()), [ranges(network, [text], Witness()) for text in texts]

    assert all_of_them
    for name, (low, high) in all_of_them.items():
        np.testing.assert_array_equal(low, np.min([one[name][0] for one in each], axis=0))
        np.testing.assert_array_equal(high, np.max([one[name][1] for one in each], axis=0))


def test_a_few_passages_say_too_little_of_ranges(trained: Path, groups: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(group.line for group in read_groups(groups)[:3]))
    watch = Witness()

    rounding_file(few, tmp_path / "rounded", RoundingSettings(reranker=str(trained), held_out=0), watch)

    assert read_ranges(tmp_path / "rounded") is None
    assert any("too few passages" in line for line in watch.said)


def test_one_that_was_killed_when_all_was_trained_trains_no_further(
    trained: Path, base: Path, groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reranker, "write_model", killed)
        with pytest.raises(KeyboardInterrupt):
            train_reranker(groups, tmp_path / "reranker", _settings(base), Witness())

    told = train_reranker(groups, tmp_path / "reranker", _settings(base), Witness())

    assert told.fitted.steps == 4
    first, second = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "reranker"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_interrupted_and_run_again_it_ends_with_the_weights_of_an_uninterrupted_run(
    trained: Path, base: Path, groups: Path, tmp_path: Path
) -> None:
    class Interrupter(Witness):
        def advance(self, what: str, done: int, total: int, note: str = "") -> None:
            if (what, done) == ("training", 2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="Stopped after step 2 of 4"):
        train_reranker(groups, tmp_path / "reranker", _settings(base), Interrupter())
    train_reranker(groups, tmp_path / "reranker", _settings(base), Witness())

    first, second = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "reranker"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert read_blends(tmp_path / "reranker") == read_blends(trained)


def test_the_next_training_starts_where_the_last_one_ended(report: Report, groups: Path, tmp_path: Path) -> None:
    again = _settings(report.output, steps=1, loss="binary")

    further = train_reranker(groups, tmp_path / "further", again, Witness())

    assert further.before == pytest.approx(report.after)


@pytest.mark.parametrize("kind", [ResidualListLoss, ResidualBinaryLoss])
def test_it_is_trained_on_what_the_first_stage_leaves_undone(untrained: CrossEncoder, kind: type[ResidualLoss]) -> None:
    loss = kind(untrained, (50.0, 10.0), 2)
    inputs = (["what does the otter do ?"], [["the otter eats at night", "the heron hides from rain"]])

    settled = loss(inputs, [torch.tensor([0.9, 0.1, 0.5, 0.0])])
    mistaken = loss(inputs, [torch.tensor([0.1, 0.9, 0.0, 0.5])])

    assert settled.item() < 0.01 < 10 < mistaken.item()


@pytest.mark.parametrize("kind", [ResidualListLoss, ResidualBinaryLoss])
def test_the_first_stages_weights_are_learned(untrained: CrossEncoder, kind: type[ResidualLoss]) -> None:
    loss = kind(untrained, (5.0, 1.0), 2)
    inputs = (["what does the otter do ?"], [["the otter eats at night", "the heron hides from rain"]])

    loss(inputs, [torch.tensor([0.1, 0.9, 0.5, 0.0])]).backward()

    gradient = loss.first_stage.grad
    assert gradient is not None
    assert gradient[0] > 0 > gradient[1]  # the cosine misled, BM25 did not


def test_what_begins_at_0_has_no_part_in_the_training(base: Path, groups: Path, tmp_path: Path) -> None:
    learned: list[tuple[float, float]] = []

    class Watching(ResidualListLoss):
        def forward(self, *given: Any, **more: Any) -> Tensor:
            learned.append(self.weights)
            return super().forward(*given, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(LOSSES, "listwise", Watching)
        train_reranker(groups, tmp_path / "reranker", _settings(base, lexical=0.0), Witness())

    assert {lexical for _, lexical in learned} == {0.0}
    assert len({dense for dense, _ in learned}) > 1


def test_training_puts_answers_first_that_the_first_stage_did_not(base: Path, groups: Path, tmp_path: Path) -> None:
    report = train_reranker(
        groups, tmp_path / "reranker", _settings(base, steps=30, rate=3e-3, evaluate_every=10), Witness()
    )

    assert report.after["ndcg@10 with first stage"] > report.before["ndcg@10 with first stage"]
    assert report.helped
    assert report.before["ndcg@10 first stage"] == report.after["ndcg@10 first stage"]


def test_the_judge_adds_the_first_stage_as_a_service_does(untrained: CrossEncoder) -> None:
    group = Group("wild", "what does the otter do ?", TEXTS, [0.1] * 8, [0.0] * 8)
    sure = replace(group, lexical=[1.0] + [0.0] * 7)

    alone, both = (RerankerJudge([each], lambda: (0.0, 1000.0), HERE)(untrained) for each in (group, sure))

    assert both["mrr@10 with first stage"] == 1
    assert both["mrr@10 alone"] == alone["mrr@10 alone"] == alone["mrr@10 with first stage"]


def test_a_blend_leans_on_each_score_as_far_as_it_is_right(untrained: CrossEncoder) -> None:
    right, wrong = [0.6, *[0.5] * 7], [0.5, *[0.6] * 7]
    groups = [Group("wild", text, [text, *TEXTS[:at], *TEXTS[at + 1 :]], [], []) for at, text in enumerate(TEXTS)]
    mostly = [right, right, right, right, right, right, right, wrong]

    def fit(dense: list[list[float]], lexical: list[list[float]]) -> Blends:
        rows = zip(groups, dense, lexical, strict=True)
        found = [replace(group, dense=one, lexical=other) for group, one, other in rows]
        return fit_blend(scored(untrained, found, HERE))

    dense, lexical = fit(mostly, [wrong] * 8), fit([wrong] * 8, mostly)

    assert dense.hybrid.dense > 5 * dense.hybrid.lexical
    assert lexical.hybrid.lexical > 5 * lexical.hybrid.dense
    assert dense.dense.dense > lexical.dense.dense


def test_an_encoders_own_order_is_trusted_as_a_whole_and_as_far_as_it_is_right(untrained: CrossEncoder) -> None:
    right, wrong, even = [0.6, *[0.5] * 7], [0.5, *[0.6] * 7], [0.5] * 8
    groups = [Group("wild", text, [text, *TEXTS[:at], *TEXTS[at + 1 :]], wrong, even) for at, text in enumerate(TEXTS)]
    own = Blends(Blend(rerank=0, dense=10, late=40), Blend(rerank=0, dense=10, lexical=5, late=40))

    trusted, doubted = (
        fit_beside(scored(untrained, groups, HERE, late), own).hybrid
        for late in ([right] * 7 + [wrong], [wrong] * 7 + [right])
    )

    assert trusted.late > 10 * doubted.late > 0
    for found in (trusted, doubted):
        assert (found.dense / found.late, found.lexical / found.late) == pytest.approx((1 / 4, 1 / 8))
        assert found.rerank == 1


def test_a_blend_weighs_tokens_where_the_encoder_compares_them(
    trained: Path, base: Path, groups: Path, tmp_path: Path
) -> None:
    late_file(groups, tmp_path / "late", LateSettings(encoder=str(base), width=8, **ONE_CORE), Witness())  # type: ignore[arg-type]

    for name, encoder in (("plain", base), ("late", tmp_path / "late")):
        blend_file(groups, tmp_path / f"for-{name}", _blend(encoder, trained), Witness())

    plain, late = (read_blends(tmp_path / f"for-{name}") for name in ("plain", "late"))
    assert plain.dense.late == plain.hybrid.late == 0
    assert late.hybrid.late / late.hybrid.dense == pytest.approx(50 / 33, rel=1e-2)
    assert late.dense.late > 0 == late.dense.lexical


def test_the_card_of_a_copy_tells_what_was_done_to_it(trained: Path, base: Path, groups: Path, tmp_path: Path) -> None:
    blend_file(groups, tmp_path / "blended", _blend(base, trained), Witness())
    rounding_file(groups, tmp_path / "rounded", RoundingSettings(reranker=str(trained), held_out=0), Witness())
    for name, told in (("blended", r"hybrid, nDCG@10 \| 0\.\d{4} \| "), ("rounded", "8 bits change nDCG@10 by ")):
        card = (tmp_path / name / "README.md").read_text()
        original, _, since = card.partition("\n## Changed since by `winnow train ")
        assert original.rstrip() == (trained / "README.md").read_text().rstrip()
        assert re.search(told, since)
        assert f"| {groups} | {content_hash(groups)} |" in since
        assert f"winnow train {since.partition('`')[0]} {groups} --output {tmp_path / name} " in since


def test_a_measured_order_counts_the_answers_rank(untrained: CrossEncoder) -> None:
    groups = [Group("wild", text, [text, *TEXTS[:at], *TEXTS[at + 1 :]], [], []) for at, text in enumerate(TEXTS)]
    first, third = [0.9, *[0.5] * 7], [0.5, 0.6, 0.5, *[0.4] * 5]
    known = scored(untrained, [replace(each, dense=first, lexical=third) for each in groups], HERE)
    assert known.gain(Blend(rerank=0, dense=1)) == 1
    assert known.gain(Blend(rerank=0, lexical=1)) == pytest.approx(1 / np.log2(4))
    assert known.gain(Blend(rerank=0)) == pytest.approx(1 / np.log2(9)), "among equals it is the last"


def test_what_8_bits_cost_with_another_blend_is_not_known_any_more(
    trained: Path, base: Path, groups: Path, tmp_path: Path
) -> None:
    assert (trained / PRICE_FILE).exists()

    blend_file(groups, tmp_path / "blended", _blend(base, trained), Witness())

    assert not (tmp_path / "blended" / PRICE_FILE).exists()
    assert (tmp_path / "blended" / RANGES_FILE).exists() == (trained / RANGES_FILE).exists()


def test_a_blend_is_fitted_for_another_encoder_in_a_copy(
    trained: Path, base: Path, groups: Path, tmp_path: Path
) -> None:
    settings = _blend(base, trained)

    blends = blend_file(groups, tmp_path / "blended", settings, Witness())

    assert open_reranker(str(tmp_path / "blended")).blends == read_blends(tmp_path / "blended")
    assert read_blends(tmp_path / "blended").hybrid.dense == pytest.approx(blends.hybrid.dense, abs=1e-4)
    with pytest.raises(TrainingError, match="exists"):
        blend_file(groups, tmp_path / "blended", settings, Witness())


@pytest.mark.parametrize("late", [0.0, 3.0])
@pytest.mark.parametrize(("dense", "lexical"), [(0.0, 0.0), (2.0, 0.0), (0.0, 1.0)])
def test_a_blend_is_read_as_it_was_written_whatever_weighs_nothing(
    dense: float, lexical: float, late: float, tmp_path: Path
) -> None:
    blends = Blends(Blend(dense=dense, late=late), Blend(dense=dense, lexical=lexical, late=late))

    write_blends(blends, tmp_path)

    assert read_blends(tmp_path) == blends


def test_of_a_single_query_nothing_is_left_to_train_on(base: Path, tmp_path: Path) -> None:
    (one := tmp_path / "one.jsonl").write_text(Group("wild", "why ?", TEXTS, [0.5] * 8, [0.5] * 8).line)

    with pytest.raises(TrainingError, match="Nothing is left to train on"):
        train_reranker(one, tmp_path / "reranker", _settings(base), Witness())


def test_plain_pairs_are_refused_with_the_way_to_mine_them(pairs: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Run `winnow mine` first"):
        train_reranker(pairs, tmp_path / "reranker", _settings(base), Witness())


def test_the_card_says_how_it_was_judged(trained: Path) -> None:
    card = (trained / "README.md").read_text()

    assert "A cross-encoder that corrects a first stage's order, trained by Winnow" in card
    assert "queries with" in card
    assert "| ndcg@10 with first stage |" in card
    assert "winnow train reranker" in card


def test_a_training_without_a_teacher_is_known_by_its_base_alone(report: Report, base: Path) -> None:
    """As it always was: one that was interrupted goes on under another version."""
    assert report.plan.models == {str(base): hash_folder(base, {})}


def test_answers_that_are_held_out_are_nobodys_negatives(base: Path, tmp_path: Path) -> None:
    """Each group has its neighbour's answer as a negative, and every other one nothing else."""
    answers = [f"the {word} eats at night" for word in WORDS]
    negatives = [[answers[n - 1], *([] if n % 2 else ["it hides from rain"])] for n in range(len(answers))]
    groups = [
        _group(f"what does the {word} do ?", answer, others)
        for word, answer, others in zip(WORDS, answers, negatives, strict=True)
    ]
    (file := tmp_path / "groups.jsonl").write_text("".join(group.line for group in groups))
    settings = _settings(base, apart="both", steps=1)

    trained, held = divide(groups, settings)

    known = {group.answer for group in held}
    robbed = [group for group in groups if group not in held and set(group.passages[1:]) <= known]
    assert known
    assert robbed
    assert not known & {text for group in trained for text in group.passages}
    assert all(len(each.passages) == len(each.dense) == len(each.lexical) >= 2 for each in trained)
    assert len(trained) == len(groups) - len(held) - len(robbed)
    card = (train_reranker(file, tmp_path / "out", settings, Witness()).output / "README.md").read_text()
    assert f"{len(trained)} groups of {len(trained)} queries" in card
    with pytest.raises(TrainingError, match="mine more of them"):
        divide([_group(group.query, group.answer, [*known]) for group in groups], settings)


def _group(query: str, answer: str, negatives: list[str]) -> Group:
    even = [0.5] * (1 + len(negatives))
    return Group("wild", query, [answer, *negatives], even, even)


def test_it_can_go_only_a_share_of_the_way(trained: Path, groups: Path, tmp_path: Path) -> None:
    settings = _settings(trained, share=0.0, steps=2)

    stayed = train_reranker(groups, tmp_path / "reranker", settings, Witness()).output

    before, after = (load_file(folder / "model.safetensors") for folder in (trained, stayed))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_blends(stayed) != Blends()
