from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.quality import pipeline
from app.quality.dataset import read
from app.quality.measures import NDCG
from app.quality.pipeline import evaluate
from app.quality.types import Evaluation, Run
from app.quality.variants import Setup
from app.types import Mode, Recipe
from models.fake import FakeEncoder, FakeReranker, FakeSparseEncoder
from models.types import Blend, Blends, Role, SparseVector, Tokens
from tests.app.quality.folders import ANIMALS, bench, write

FAKES = Setup("fake", "fake", Recipe(32, 8))
EVEN = {"by": "ranks", "dense": 1.0, "lexical": 1.0}
ARMS = ["dense", "lexical", "fused", "dense+rerank", "dense+blend", "fused+rerank", "fused+blend"]

# To the fake encoder every word weighs the same: many common words are nearer than one rare one in a long text.
RARE = {
    "zoo": "among elephants giraffes monkeys penguins parrots snakes tigers lions bears wolves foxes lives zebra",
    **{f"where{number}": f"where is the way to it {number}" for number in range(60)},
}


def mean(evaluation: Evaluation, arm: str, name: str = NDCG) -> float:
    return evaluation.arm(arm).measure(name).estimate.mean


def answers(runs: list[Run], arm: str, query: str) -> list[str]:
    (scores,) = (run.scores[query] for run in runs if run.arm == arm)
    return sorted(scores, key=lambda name: -scores[name])


def test_every_stage_is_measured_side_by_side(tmp_path: Path) -> None:
    evaluation, runs = evaluate(read(write(tmp_path)), FAKES, bench(), 0)
    assert [arm.name for arm in evaluation.arms] == [run.arm for run in runs] == ARMS
    assert mean(evaluation, "dense+rerank") > 0.8
    assert (evaluation.documents, evaluation.chunks, len(evaluation.queries)) == (5, 5, 4)
    assert {each.first for each in evaluation.ceilings} == {"dense", "lexical", "fused"}
    assert [each.stage for each in evaluation.latencies] == ["embed", "dense", "lexical", "fuse", "rerank"]
    assert all(0 < each.p50 <= each.p95 and each.queries == 4 for each in evaluation.latencies)
    assert any("4 queries are few" in warning for warning in evaluation.warnings)
    assert all(len(arm.versus_dense) == (0 if arm.name == "dense" else 3) for arm in evaluation.arms)


def test_what_dense_misses_lexical_finds_and_fusion_by_ranks_has(tmp_path: Path) -> None:
    """By scores it need not: sixty texts that say nearly the same make any other one look far away."""
    dataset = read(write(tmp_path, RARE, {"q": "where is the zebra to it"}, {"q": {"zoo": 1}}))
    evaluation, runs = evaluate(dataset, replace(FAKES, candidates=(20,), fusing=EVEN), bench(), 0)
    assert answers(runs, "lexical", "q")[0] == "zoo"
    assert "zoo" not in answers(runs, "dense", "q")[:20]
    assert mean(evaluation, "lexical") == 1
    assert mean(evaluation, "dense+rerank", "recall@100") == 0
    assert mean(evaluation, "fused+rerank", "recall@100") == 1
    assert {each.first: each.recall.mean for each in evaluation.ceilings} == {"dense": 0, "lexical": 1, "fused": 1}


def test_a_sparse_encoder_is_measured_beside_the_others_and_fused_with_them(tmp_path: Path) -> None:
    """The fake one foresees the first letters of every word, which no other stage does."""
    documents = {"sign": "contracts need signatures", **{f"other{n}": f"some text about topic {n}" for n in range(60)}}
    dataset = read(write(tmp_path, documents, {"q": "signed"}, {"q": {"sign": 1}}))
    evaluation, runs = evaluate(dataset, replace(FAKES, sparse="fake", fusing={"sparse": 2.0}), bench(), 0)
    assert [arm.name for arm in evaluation.arms] == ["dense", "lexical", "sparse", *ARMS[2:]]
    assert answers(runs, "lexical", "q") == []
    assert answers(runs, "sparse", "q") == ["sign"]
    assert answers(runs, "fused", "q")[0] == "sign"
    assert {each.first for each in evaluation.ceilings} == {"dense", "lexical", "sparse", "fused"}
    stages = [each.stage for each in evaluation.latencies]
    assert stages == ["embed", "weigh", "dense", "lexical", "sparse", "fuse", "rerank"]
    assert evaluation.settings["sparse"] == "fake"


class Blank(FakeSparseEncoder):
    """Knows none of a query's words where there are so few of them."""

    def encode(self, batch: Sequence[Tokens], role: Role) -> list[SparseVector]:
        nothing = SparseVector(np.zeros(0, np.int32), np.zeros(0, np.float32))
        made = super().encode(batch, role)
        return [
            nothing if role == "query" and len(each) < 3 else found for each, found in zip(batch, made, strict=True)
        ]


@pytest.mark.parametrize("order", [("q", "e"), ("e", "q")])
def test_a_query_without_terms_finds_nothing_by_them_and_is_measured_all_the_same(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    documents = {f"d{n}": f"some text about topic {n}" for n in range(20)}
    queries = {"q": "some text about topic 3", "e": "unheard"}
    folder = write(tmp_path, documents, {name: queries[name] for name in order}, {"q": {"d3": 1}, "e": {"d4": 1}})
    made = bench(sparse_encoders={"fake": Blank()})
    evaluation, runs = evaluate(read(folder), replace(FAKES, sparse="fake"), made, 0)
    assert answers(runs, "sparse", "e") == []
    assert answers(runs, "sparse", "q")
    assert [arm.name for arm in evaluation.arms] == ["dense", "lexical", "sparse", *ARMS[2:]]


def test_an_encoder_that_compares_tokens_has_arms_of_its_own(tmp_path: Path) -> None:
    """A reranker that weighs nothing leaves the order of the tokens; left out, all is as without."""
    long = "the old green boat goes down a river with bread and wine for all who wait at the mill"
    documents = {"short": "green river", "long": long, **{f"other{n}": f"some text about topic {n}" for n in range(30)}}
    dataset = read(write(tmp_path, documents, {"q": "green boat river"}, {"q": {"long": 1}}))
    blends = Blends(Blend(0, 1, 0, 4), Blend(0, 1, 1, 4))
    made = bench(rerankers={"fake": FakeReranker(blends=blends)})
    evaluation, runs = evaluate(dataset, replace(FAKES, encoder="fake:late"), made, 0)
    assert [arm.name for arm in evaluation.arms] == [*ARMS[:3], "dense+late", "fused+late", *ARMS[3:]]
    assert answers(runs, "dense", "q")[0] == "short"
    assert answers(runs, "fused+late", "q")[0] == answers(runs, "dense+late", "q")[0] == "long"
    assert answers(runs, "fused+late", "q") == answers(runs, "fused+blend", "q")
    assert [each.stage for each in evaluation.latencies] == ["embed", "dense", "lexical", "fuse", "late", "rerank"]
    assert evaluation.settings["fused_late"] == str(Blend(rerank=0, dense=1, lexical=1, late=4))
    unread, _ = evaluate(dataset, replace(FAKES, encoder="fake:late", rerank=False), made, 0)
    assert (unread.served, mean(unread, "fused+late")) == ("fused+late", 1)
    without, _ = evaluate(dataset, replace(FAKES, encoder="fake:late", late=False), made, 0)
    assert [arm.name for arm in without.arms] == ARMS


def test_the_tokens_of_auto_are_those_of_the_chunks_that_it_reads(tmp_path: Path) -> None:
    """Comparing tokens puts others in front than the first stage does, and they are not as long."""
    draw = np.random.default_rng(1)
    words = [f"w{number}" for number in range(60)]
    documents = {f"d{number}": " ".join(draw.choice(words, draw.choice([3, 50]))) for number in range(80)}
    queries = {f"q{number}": " ".join(draw.choice(words, 4)) for number in range(20)}
    dataset = read(write(tmp_path, documents, queries, {name: {"d1": 1} for name in queries}))
    made = bench(rerankers={"fake": FakeReranker(blends=Blends(Blend(0.1, 1, 0, 4), Blend(0.1, 1, 1, 4)))})
    setup = Setup("fake:late", "fake", Recipe(64, 8), candidates=(5, 40))
    stand = pipeline._prepare(dataset, setup, made)
    judged = pipeline._judge(stand, made)
    reads = pipeline._enough(stand, judged, "fused")
    each = zip(stand.proposals, judged.pairs, reads, strict=True)
    read_of = [pairs.tokens[proposal.places("fused", 40)[:amount]].sum() for proposal, pairs, amount in each]
    evaluation, _ = evaluate(dataset, setup, made, 0)
    (curve,) = (each for each in evaluation.curves if each.arm == "fused+blend")
    assert np.mean(reads) < 38
    assert curve.auto.tokens == pytest.approx(np.mean(read_of))


def test_tokens_are_computed_once_for_good(tmp_path: Path) -> None:
    encoder, dataset = FakeEncoder(late=True), read(write(tmp_path))
    made, setup = bench(encoders={"fake:late": encoder}), replace(FAKES, encoder="fake:late")
    first, _ = evaluate(dataset, setup, made, 0)
    encoder.calls.clear()
    again, _ = evaluate(dataset, setup, made, 0)
    assert encoder.calls == [1] * (len(dataset.queries) + 1)
    assert again.arm("fused+late").measures == first.arm("fused+late").measures


@pytest.mark.parametrize("candidates", [50, 1])
def test_one_pass_gives_vectors_and_tokens_where_most_chunks_will_be_compared(tmp_path: Path, candidates: int) -> None:
    encoder, dataset = FakeEncoder(late=True), read(write(tmp_path, ANIMALS | RARE))
    setup = replace(FAKES, encoder="fake:late", candidates=(candidates,), rerank=False)
    made, _ = evaluate(dataset, setup, bench(encoders={"fake:late": encoder}), 0)
    queries = len(dataset.queries)
    timed = queries + 1
    read_twice = sum(encoder.calls) - made.chunks - queries - timed
    assert made.chunks > queries
    assert read_twice == 0 if candidates == 50 else 0 < read_twice <= 2 * queries


def test_terms_are_computed_once_for_good(tmp_path: Path) -> None:
    encoder = FakeSparseEncoder()
    dataset, made = read(write(tmp_path)), bench(sparse_encoders={"fake": encoder})
    first, _ = evaluate(dataset, replace(FAKES, sparse="fake"), made, 0)
    timed = len(dataset.queries) + 1
    assert len(encoder.calls) > timed
    encoder.calls.clear()
    again, _ = evaluate(dataset, replace(FAKES, sparse="fake"), made, 0)
    assert encoder.calls == [1] * timed
    assert again.arm("sparse").measures == first.arm("sparse").measures


def test_each_first_stage_has_its_own_blend(tmp_path: Path) -> None:
    """With all weight on one feature, a blend is the order by that feature alone."""
    blends = Blends(dense=Blend(rerank=0.0, dense=1.0), hybrid=Blend(rerank=0.0, lexical=1.0))
    rest = " ".join(f"other{number}" for number in range(24))
    documents = {"near": "makes honey", "whole": f"who makes honey {rest}", "rare": f"who {rest}", "far": "a train"}
    dataset = read(write(tmp_path, documents, {"q": "who makes honey"}, {"q": {"whole": 1}}))
    _, runs = evaluate(dataset, FAKES, bench(rerankers={"fake": FakeReranker(blends=blends)}), 0)
    assert answers(runs, "dense+rerank", "q")[:3] == ["whole", "near", "rare"]
    assert answers(runs, "dense+blend", "q") == answers(runs, "dense", "q")
    assert answers(runs, "dense", "q")[:2] == ["near", "whole"]
    worded = answers(runs, "lexical", "q")
    assert worded[:3] == answers(runs, "fused+blend", "q")[:3] != answers(runs, "fused+rerank", "q")[:3]


def test_a_document_counts_with_its_best_chunk(tmp_path: Path) -> None:
    long = ". ".join(f"some other sentence about topic {number}" for number in range(20))
    documents = {"long": f"{long}. honey is made by bees. {long}", "short": "trains run late"}
    dataset = read(write(tmp_path, documents, {"q": "who makes honey"}, {"q": {"long": 1}}))
    evaluation, runs = evaluate(dataset, FAKES, bench(), 0)
    assert evaluation.chunks > 10
    assert answers(runs, "dense+rerank", "q")[0] == "long"
    assert len(answers(runs, "dense", "q")) == 2


def test_reranking_goes_no_deeper_than_the_candidates(tmp_path: Path) -> None:
    reranker = FakeReranker()
    dataset = read(write(tmp_path, RARE, {"q": "where is the way"}, {"q": {"where1": 1}}))
    _, runs = evaluate(dataset, replace(FAKES, candidates=(7,)), bench(rerankers={"fake": reranker}), 0)
    assert len(answers(runs, "dense+blend", "q")) == 7
    assert len(answers(runs, "dense", "q")) == 61
    assert 7 <= sum(reranker.calls) <= 14


@pytest.mark.parametrize("depth", [3, 10])
def test_a_curve_has_a_point_for_every_depth_and_agrees_with_the_arms(tmp_path: Path, depth: int) -> None:
    dataset = read(write(tmp_path))
    evaluation, _ = evaluate(dataset, replace(FAKES, candidates=(1, 2, depth)), bench(), 0)
    assert [curve.arm for curve in evaluation.curves] == ["dense+blend", "fused+blend"]
    for curve in evaluation.curves:
        assert [point.candidates for point in curve.points] == [1, 2, depth]
        assert curve.points[-1].ndcg == evaluation.arm(curve.arm).measure(NDCG).estimate
        tokens = [point.tokens for point in curve.points]
        assert tokens == sorted(tokens)
        assert all(point.milliseconds is not None and point.milliseconds > 0 for point in curve.points)
        assert curve.knee in (1, 2, depth)
    dense = next(each for each in evaluation.ceilings if each.first == "dense")
    assert evaluation.curves[0].points[-1].recall == dense.recall


def test_a_curve_says_what_is_saved_by_stopping_when_the_top_rests(tmp_path: Path) -> None:
    documents = {f"d{n}": f"honey {'bees ' * (n < 2)}{'flowers ' * (n % 5)}{n}" for n in range(60)}
    dataset = read(write(tmp_path, documents, {"q": "honey bees"}, {"q": {"d0": 1, "d1": 1}}))
    evaluation, _ = evaluate(dataset, replace(FAKES, candidates=(20, 50)), bench(), 0)
    for curve in evaluation.curves:
        assert 15 <= curve.auto.candidates < 50
        assert curve.auto.tokens < curve.points[-1].tokens
        assert curve.auto.ndcg == curve.points[-1].ndcg


def test_a_second_run_asks_no_model_for_what_the_first_one_learned(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "set"))
    first_reranker, second_reranker = FakeReranker(), FakeReranker()
    encoder = FakeEncoder()
    first, _ = evaluate(dataset, FAKES, bench(tmp_path / "cache", rerankers={"fake": first_reranker}), 0)
    second, _ = evaluate(
        dataset, FAKES, bench(tmp_path / "cache", encoders={"fake": encoder}, rerankers={"fake": second_reranker}), 0
    )
    assert sum(first_reranker.calls) >= 20
    assert second_reranker.calls == []
    assert encoder.calls == [1] * 5, "queries are embedded one by one to time it, and no chunk is"
    assert second.arms == first.arms
    rerank = second.latencies[-1]
    assert (rerank.queries, rerank.stored) == (4, 4)
    assert rerank.p50 == pytest.approx(first.latencies[-1].p50)


def test_another_model_recipe_or_text_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "set"))
    evaluate(dataset, FAKES, bench(tmp_path / "cache"), 0)
    other = FakeReranker(max_tokens=400)
    evaluate(dataset, FAKES, bench(tmp_path / "cache", rerankers={"fake": other}), 0)
    assert sum(other.calls) >= 20
    encoder = FakeEncoder()
    changed = replace(
        dataset, documents=(replace(dataset.documents[0], text="an entirely new text"), *dataset.documents[1:])
    )
    evaluate(changed, FAKES, bench(tmp_path / "cache", encoders={"fake": encoder}), 0)
    assert len(encoder.calls) == 6, "the new chunk beside the five queries that are timed"


def test_a_deeper_second_run_scores_only_what_is_new_beside_what_it_times(tmp_path: Path) -> None:
    queries = {f"q{number}": f"where is the way {number}" for number in range(30)}
    dataset = read(write(tmp_path / "set", RARE, queries, {name: {"where1": 1} for name in queries}))
    evaluate(dataset, replace(FAKES, candidates=(20,)), bench(tmp_path / "cache"), 0)
    reranker = FakeReranker()
    deeper, _ = evaluate(
        dataset, replace(FAKES, candidates=(21,)), bench(tmp_path / "cache", rerankers={"fake": reranker}), 0
    )
    assert deeper.latencies[-1].queries == 10
    assert sum(reranker.calls) <= 10 * 21 + 30 * 2


def test_fewer_dimensions_are_searched_by_fewer_dimensions(tmp_path: Path) -> None:
    dataset = read(write(tmp_path))
    whole, _ = evaluate(dataset, FAKES, bench(), 0)
    short, _ = evaluate(dataset, replace(FAKES, dims=2), bench(), 0)
    assert (whole.settings["dims"], short.settings["dims"]) == (64, 2)
    assert mean(short, "dense") < mean(whole, "dense")
    assert short.arm("lexical") == replace(whole.arm("lexical"), versus_dense=short.arm("lexical").versus_dense)


def test_without_reranking_there_are_first_stages_alone(tmp_path: Path) -> None:
    reranker = FakeReranker()
    evaluation, _ = evaluate(
        read(write(tmp_path)), replace(FAKES, rerank=False), bench(rerankers={"fake": reranker}), 0
    )
    assert [arm.name for arm in evaluation.arms] == ["dense", "lexical", "fused"]
    assert evaluation.served == "fused"
    assert reranker.calls == []


@pytest.mark.parametrize(("mode", "served"), [("hybrid", "fused"), ("dense", "dense"), ("lexical", "fused")])
def test_what_is_served_goes_by_the_mode_of_the_settings(tmp_path: Path, mode: Mode, served: str) -> None:
    dataset, reranker = read(write(tmp_path)), FakeReranker()
    setup = replace(FAKES, mode=mode)
    evaluation, _ = evaluate(dataset, setup, bench(rerankers={"fake": reranker}), 0)
    assert evaluation.served == f"{served}+blend"
    assert evaluate(dataset, replace(setup, rerank=False), bench(), 0)[0].served == served
    assert any("WINNOW_MODE=lexical" in warning for warning in evaluation.warnings) == (mode == "lexical")


def test_titles_that_fill_a_chunk_become_text_and_are_counted(tmp_path: Path) -> None:
    dataset = read(write(tmp_path))
    title = " ".join(f"word{number}" for number in range(40))
    titled = replace(dataset, documents=(replace(dataset.documents[0], title=title), *dataset.documents[1:]))
    evaluation, _ = evaluate(titled, FAKES, bench(), 0)
    assert any("1 documents have a title too long for a chunk" in warning for warning in evaluation.warnings)


def test_first_stages_reach_a_hundred_documents_however_many_chunks_they_have(tmp_path: Path) -> None:
    long = " ".join(f"where word{number}" for number in range(400))
    documents = {f"d{number}": long if number < 3 else f"nothing of the kind {number}" for number in range(130)}
    dataset = read(write(tmp_path, documents, {"q": "where"}, {"q": {"d129": 1}}))
    evaluation, runs = evaluate(dataset, FAKES, bench(), 0)
    assert evaluation.chunks > 130
    assert len(answers(runs, "dense", "q")) == 100


def test_candidates_without_end_are_all_chunks(tmp_path: Path) -> None:
    evaluation, _ = evaluate(read(write(tmp_path)), replace(FAKES, candidates=(10**8,)), bench(), 0)
    assert evaluation.settings["ranking_depth"] == evaluation.chunks == 5
    assert evaluation.ceilings[0].recall.mean == 1


def test_what_a_model_could_not_read_whole_is_told(tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(600))
    dataset = read(write(tmp_path, queries={"q": f"honey {words}"}, answers={"q": {"bee": 1}}))
    evaluation, _ = evaluate(dataset, FAKES, bench(), 0)
    told = " ".join(evaluation.warnings)
    assert "1 queries are longer than the encoder reads." in told
    assert "5 pairs of query and chunk are longer than the reranker reads." in told


def test_the_embedded_models_rank_sensibly(tmp_path: Path) -> None:
    queries = {"q": "Which insect produces the sweet stuff people put on bread?", "p": "ship of the desert"}
    dataset = read(write(tmp_path, queries=queries, answers={"q": {"bee": 1}, "p": {"camel": 1}}))
    made = bench()
    made.rerankers.clear()
    evaluation, runs = evaluate(dataset, Setup("embedded", "embedded"), made, 0)
    assert answers(runs, evaluation.served, "q")[0] == "bee"
    assert answers(runs, evaluation.served, "p")[0] == "camel"
    assert np.isfinite([measure.estimate.mean for arm in evaluation.arms for measure in arm.measures]).all()


def test_in_8_bits_the_reranker_says_nearly_the_same_and_nothing_is_taken_for_the_others(tmp_path: Path) -> None:
    dataset, made = read(write(tmp_path, queries={"q": "ship of the desert"}, answers={"q": {"camel": 1}})), bench()
    made.rerankers.clear()
    exact, rough = (
        evaluate(dataset, Setup("embedded", "embedded", precision=precision), made, 0)
        for precision in ("float32", "int8")
    )
    assert [each.settings["reranker_precision"] for each, _ in (exact, rough)] == ["float32", "int8"]
    ours, theirs = (next(run for run in runs if run.arm == "dense+rerank").scores["q"] for _, runs in (exact, rough))
    assert ours != theirs
    assert ours == pytest.approx(theirs, abs=1)
    assert exact[1][0].scores["q"] == pytest.approx(rough[1][0].scores["q"], abs=0.01), "vectors are not rounded"
