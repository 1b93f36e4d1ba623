from __future__ import annotations

from dataclasses import replace

import pytest

from app.quality.types import BASE
from app.quality.variants import BadSetup, Setup, checked, depths, vary
from app.types import Fusion, Recipe

PLAIN = Setup("embedded", "embedded")
ASKED = Setup("embedded", "embedded", collection="papers")


def test_a_variant_changes_what_it_names_and_nothing_else() -> None:
    varied = vary(PLAIN, "encoder=./mine, dims=128,chunk_tokens=64,title=never")
    assert varied == Setup(
        "./mine",
        "embedded",
        Recipe(64, 32, "never"),
        dims=128,
        name="encoder=./mine, dims=128,chunk_tokens=64,title=never",
    )
    assert vary(PLAIN, "candidates=20").candidates == (20,)
    assert vary(PLAIN, "precision=int8").precision == "int8"
    assert vary(ASKED, "collection=other").collection == "other"
    assert PLAIN.name == BASE


def test_a_variant_may_fuse_in_another_way() -> None:
    varied = vary(replace(PLAIN, fusing={"dense": 0.5, "k": 30}), "fusion=ranks,dense_weight=2")
    assert varied.fusion == Fusion("ranks", dense=2, lexical=0.4, k=30)
    assert vary(ASKED, "fusion=ranks").fusing == {"by": "ranks"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "colour=red",
            "with one of encoder, reranker, sparse, dims, chunk_tokens, overlap_tokens, title, candidates, language, ",
        ),
        ("collection=papers", "with one of encoder"),
        ("precision=int4", "precision=int4 is not possible: choose one of auto, float32, bfloat16, int8"),
        ("dims", "write key=value"),
        ("dims=", "write key=value"),
        ("dims=many", "dims is 'many', which is not a whole number"),
        ("dims=0", "must be at least 1"),
        ("chunk_tokens=8", "chunk_tokens must be at least 16"),
        ("candidates=0", "must be at least 1"),
        ("language=klingon", "There is no language 'klingon'"),
        ("fusion=luck", "fusion=luck is not possible: choose one of scores, ranks"),
        ("fusion_k=0", "fusion_k, dense_weight, lexical_weight and sparse_weight must be more than 0"),
        ("sparse_weight=nan", "lexical_weight and sparse_weight must be more than 0"),
        ("lexical_weight=some", "lexical_weight is 'some', which is not a number"),
        ("title=sometimes", "title=sometimes is not possible: choose one of first, every, never"),
    ],
)
def test_a_variant_that_says_nothing_is_refused_with_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(BadSetup) as error:
        vary(PLAIN, text)
    assert told in str(error.value)


def test_a_collection_has_its_own_models() -> None:
    with pytest.raises(BadSetup, match="with one of collection, candidates, late, fusion, "):
        vary(ASKED, "encoder=./mine")


def test_depths_are_sorted_and_the_deepest_is_the_one_for_the_stages() -> None:
    assert depths("50,10,20,10") == (10, 20, 50)
    assert Setup("a", "b", candidates=depths("50,10")).depth == 50
    with pytest.raises(BadSetup, match="'x', which is not a whole number"):
        depths("10,x")
    with pytest.raises(BadSetup, match="at least 1"):
        checked(Setup("a", "b", candidates=depths("0,10")))
