"""What every reranker must do, whatever computes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.catalog import open_reranker
from models.types import ModelOptions, Reranker, Tokens
from tests.models import tiny
from tests.models.conftest import LATE

RUNTIMES: dict[str, ModelOptions] = {
    "torch": ModelOptions(precision="float32", runtime="torch"),
    "openvino": ModelOptions(precision="float32", runtime="openvino"),
    "packed": ModelOptions(device="cpu", precision="float32", runtime="packed"),
}
BACKENDS = [f"{runtime} {family}" for runtime in RUNTIMES for family in (*tiny.FAMILIES, "embedded")]
QUERY = "which bank is near"
TEXTS = [*tiny.TEXTS, "", "...", "\n", "🦜" * 7, "bank " * 9]


@pytest.fixture(scope="module", params=["fake", *BACKENDS, *(f"torch {kind}" for kind in LATE)])
def reranker(request: pytest.FixtureRequest, rerankers: dict[str, str]) -> Reranker:
    runtime, _, family = request.param.rpartition(" ")
    return open_reranker(rerankers[family], RUNTIMES.get(runtime))


def pair(reranker: Reranker, query: str, text: str) -> Tokens:
    (tokens,) = reranker.tokenize(query, [text])
    return tokens


def count(reranker: Reranker, text: str) -> int:
    return len(reranker.tokenizer.encode(text, add_special_tokens=False).ids)


def is_within(part: list[int], whole: list[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def test_texts_that_were_read_before_make_the_same_pairs(reranker: Reranker) -> None:
    read = reranker.read(TEXTS[:3]) + reranker.read(TEXTS[3:])
    for one, other in zip(reranker.pair(QUERY, read), reranker.tokenize(QUERY, TEXTS), strict=True):
        assert (one.ids.tolist(), one.types.tolist(), one.total) == (
            other.ids.tolist(),
            other.types.tolist(),
            other.total,
        )
    assert all(ids.dtype == np.int32 for ids in read)
    assert len(reranker.tokenisation) == 8


def test_every_pair_has_one_finite_score(reranker: Reranker) -> None:
    scores = reranker.score(reranker.tokenize(QUERY, TEXTS))
    assert scores.dtype == np.float32
    assert scores.shape == (len(TEXTS),)
    assert np.isfinite(scores).all()


def test_no_texts_give_no_scores(reranker: Reranker) -> None:
    assert reranker.tokenize(QUERY, []) == []
    assert reranker.score([]).shape == (0,)


def test_a_score_does_not_depend_on_its_neighbours_in_the_batch(reranker: Reranker) -> None:
    tokens = reranker.tokenize(QUERY, TEXTS)
    together = reranker.score(tokens)
    alone = np.concatenate([reranker.score([one]) for one in tokens])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, reranker.score(tokens))


def test_a_pair_within_the_capacity_is_not_cut(reranker: Reranker) -> None:
    text = "bank " * (reranker.capacity // (2 * count(reranker, "bank")))
    tokens = pair(reranker, QUERY, text)
    assert not tokens.truncated
    assert len(tokens) == len(pair(reranker, QUERY, "")) + count(reranker, text)


def test_a_long_query_gives_way_so_that_the_text_stays_whole(reranker: Reranker) -> None:
    text = "tokens " * (reranker.capacity // (4 * count(reranker, "tokens")))
    tokens = pair(reranker, "bank " * 700, text)
    own = reranker.tokenize("", [text])[0].ids.tolist()
    body = own[-count(reranker, text) - 1 :]
    assert tokens.truncated
    assert is_within(body, tokens.ids.tolist())


def test_a_long_text_is_cut_and_a_short_query_stays_whole(reranker: Reranker) -> None:
    short, long = reranker.tokenize("near", ["bank", "bank " * 900])
    assert not short.truncated
    assert long.truncated
    assert len(long) > reranker.capacity
    query = count(reranker, "near")
    assert long.ids[: query + 2].tolist() == short.ids[: query + 2].tolist()
    assert long.total - short.total == count(reranker, "bank " * 900) - count(reranker, "bank")


def test_of_two_long_ones_neither_is_lost(reranker: Reranker) -> None:
    query, text = "near " * 800, "bank " * 900
    tokens = pair(reranker, query, text)
    assert tokens.total >= count(reranker, query) + count(reranker, text)
    assert len(tokens) == len(pair(reranker, query, text + text))
    kept = set(tokens.ids.tolist())
    assert kept >= {reranker.tokenize("near", [""])[0].ids[1], pair(reranker, "", "bank").ids[-2]}
    assert np.isfinite(reranker.score([tokens])).all()


def test_threads_tokenize_side_by_side(reranker: Reranker) -> None:
    def tokenize(_: int) -> list[list[int]]:
        return [tokens.ids.tolist() for tokens in reranker.tokenize(QUERY, TEXTS)]

    expected = tokenize(0)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenize, range(64))) == [expected] * 64


def test_the_tokenizer_neither_cuts_nor_pads(reranker: Reranker) -> None:
    assert reranker.tokenizer.truncation is None
    assert reranker.tokenizer.padding is None


def test_opening_a_model_again_gives_the_same_fingerprint(reranker: Reranker) -> None:
    again = open_reranker(reranker.name, ModelOptions(precision="bfloat16"))
    assert again.fingerprint == reranker.fingerprint
    assert again.blends == reranker.blends
