from __future__ import annotations

from math import log2
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from app.quality.measures import CUTS, MAP, MRR, NAMES, NDCG, measure, save, save_judgements
from app.quality.types import Judgements, Query, Run

DOCUMENTS = [f"d{number}" for number in range(30)]

grades = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1).filter(
    lambda found: any(grade > 0 for grade in found.values())
)
# Few different scores, so that many documents are tied.
scores = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-3, 3).map(float))
cases = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.tuples(grades, scores), min_size=1)

Cases = dict[str, tuple[dict[str, int], dict[str, float]]]


def of(case: Cases) -> tuple[Run, Judgements, list[Query]]:
    run = Run("dense", {name: answer for name, (_, answer) in case.items()})
    return run, {name: grades for name, (grades, _) in case.items()}, [Query(name, name) for name in case]


@given(cases)
def test_measures_are_those_of_trec_eval(case: Cases) -> None:
    run, judgements, queries = of(case)
    cuts = ",".join(map(str, CUTS))
    asked = {"ndcg_cut.10", "map", "recip_rank", f"recall.{cuts}", f"P.{cuts}"}
    found = pytrec_eval.RelevanceEvaluator(judgements, asked).evaluate(run.scores)
    for row, query in zip(measure(run, judgements, queries), queries, strict=True):
        theirs = found.get(query.id, {})
        reciprocal = theirs.get("recip_rank", 0.0)
        expected = [theirs.get("ndcg_cut_10", 0.0), reciprocal if reciprocal >= 0.1 else 0.0, theirs.get("map", 0.0)]
        expected += [theirs.get(f"{name}_{cut}", 0.0) for name in ("recall", "P") for cut in CUTS]
        assert row == pytest.approx(expected, abs=1e-9)


@given(cases)
def test_measures_are_what_their_definitions_say(case: Cases) -> None:
    run, judgements, queries = of(case)
    for row, query in zip(measure(run, judgements, queries), queries, strict=True):
        assert row == pytest.approx(defined(judgements[query.id], run.scores[query.id]), abs=1e-6)


def defined(grades: dict[str, int] | object, answer: dict[str, float] | object) -> list[float]:
    """Every measure from first principles."""
    assert isinstance(grades, dict)
    assert isinstance(answer, dict)
    order = sorted(answer, key=lambda name: (answer[name], name), reverse=True)
    gains = [grades.get(name, 0) for name in order]
    ideal = sorted(grades.values(), reverse=True)
    relevant = sum(grade > 0 for grade in ideal)
    hits = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    ndcg = discounted(gains) / discounted(ideal)
    reciprocal = 1 / hits[0] if hits and hits[0] <= 10 else 0.0
    average = sum(place / rank for place, rank in enumerate(hits, 1)) / relevant
    recalls = [sum(rank <= cut for rank in hits) / relevant for cut in CUTS]
    return [ndcg, reciprocal, average, *recalls, *(sum(rank <= cut for rank in hits) / cut for cut in CUTS)]


def discounted(gains: list[int]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains[:10], 1))


def test_ndcg_is_what_a_hand_computes() -> None:
    run = Run("dense", {"q": {"a": 3.0, "b": 2.0, "c": 1.0}})
    (row,) = measure(run, {"q": {"b": 2, "c": 1, "z": 1}}, [Query("q", "")], (NDCG, MRR, MAP))
    best = 2 + 1 / log2(3) + 1 / 2
    assert row == pytest.approx([(2 / log2(3) + 1 / 2) / best, 1 / 2, (1 / 2 + 2 / 3) / 3], abs=1e-9)


def test_a_query_without_an_answer_is_worth_nothing_and_keeps_its_row() -> None:
    queries = [Query("empty", ""), Query("absent", ""), Query("right", "")]
    run = Run("dense", {"right": {"a": 1.0}, "empty": {}})
    values = measure(run, {name: {"a": 1} for name in ("empty", "absent", "right")}, queries)
    assert not values[:2].any()
    assert values[2, NAMES.index(NDCG)] == 1


def test_the_first_relevant_document_counts_down_to_the_tenth_place() -> None:
    names = [f"d{number:02}" for number in range(12)]
    run = Run("dense", {"q": {name: -float(place) for place, name in enumerate(names)}})
    tenth, eleventh = (
        float(measure(run, {"q": {names[place]: 1}}, [Query("q", "")], (MRR,))[0, 0]) for place in (9, 10)
    )
    assert [tenth, eleventh] == pytest.approx([0.1, 0.0])


@given(cases)
def test_saved_runs_give_the_same_numbers_again(tmp_path: Path, case: Cases) -> None:
    run, judgements, queries = of(case)
    save(run, tmp_path)
    save_judgements(judgements, tmp_path)
    with (tmp_path / "dense.run").open() as answers, (tmp_path / "qrels.txt").open() as grades:
        found = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(grades), {"map"}).evaluate(
            pytrec_eval.parse_run(answers)
        )
    values = measure(run, judgements, queries, (MAP,))
    assert [found.get(query.id, {"map": 0.0})["map"] for query in queries] == pytest.approx(values[:, 0], abs=1e-9)


def test_ids_with_blanks_stay_one_word_in_files(tmp_path: Path) -> None:
    save(Run("dense+blend", {"q 1": {"a b": 0.5}}), tmp_path)
    save_judgements({"q 1": {"a b": 1}}, tmp_path)
    assert (tmp_path / "dense-blend.run").read_text() == "q%201 Q0 a%20b 1 0.5 dense-blend\n"
    assert (tmp_path / "qrels.txt").read_text() == "q%201 0 a%20b 1\n"


def test_scores_lose_nothing_on_their_way_through_a_file(tmp_path: Path) -> None:
    close = {"a": float(np.float32(0.1)), "b": float(np.nextafter(np.float32(0.1), np.float32(1)))}
    save(Run("dense", {"q": close}), tmp_path)
    with (tmp_path / "dense.run").open() as file:
        assert pytrec_eval.parse_run(file) == {"q": close}
