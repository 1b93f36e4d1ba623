"""What is similar and no longer current."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.app.serving import Service, pointers, problem


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.fixture
async def rates(service: Service) -> Service:
    await service.ingest(
        {"id": "r1", "text": "The rate is two percent.", "metadata": {"date": days_ago(400), "kind": "rate"}},
        {"id": "r2", "text": "The rate is three percent.", "metadata": {"date": days_ago(10), "supersedes": "r1"}},
        {"id": "undated", "text": "A rate is a share."},
    )
    return service


async def test_a_superseded_document_is_found_on_request_only(rates: Service) -> None:
    for mode in ("hybrid", "dense", "lexical"):
        assert set(await rates.found("the rate", mode=mode)) == {"r2", "undated"}
        assert set(await rates.found("the rate", mode=mode, superseded=True)) == {"r1", "r2", "undated"}


async def test_it_is_back_when_its_successor_is_gone(rates: Service) -> None:
    await rates.client.delete("/documents/r2")
    assert set(await rates.found("the rate")) == {"r1", "undated"}


async def test_several_are_named_in_a_list_and_a_chain_leaves_the_last(service: Service) -> None:
    await service.ingest(
        *(
            {"id": f"v{n}", "text": f"rate {n}", "metadata": {"supersedes": [f"v{m}" for m in range(n)]}}
            for n in range(4)
        )
    )
    assert await service.found("rate") == ["v3"]


async def test_two_that_supersede_each_other_are_both_found(service: Service) -> None:
    await service.ingest(
        {"id": "a", "text": "rate", "metadata": {"supersedes": "b"}},
        {"id": "b", "text": "rate", "metadata": {"supersedes": ["b", "a"]}},
    )
    assert sorted(await service.found("rate")) == ["a", "b"]


async def test_places_of_the_superseded_are_filled_by_others(service: Service) -> None:
    await service.ingest(
        *({"id": f"old{n}", "text": "the rate of old"} for n in range(30)),
        {"id": "new", "text": "the rate", "metadata": {"supersedes": [f"old{n}" for n in range(30)]}},
        *({"id": f"else{n}", "text": f"something else {n}"} for n in range(10)),
    )
    assert len(await service.found("the rate of old", top_k=8, candidates=8)) == 8


async def test_an_id_that_reads_like_a_date_can_be_superseded(service: Service) -> None:
    await service.ingest(
        {"id": "2024-01-31", "text": "rate"}, {"id": "now", "text": "rate", "metadata": {"supersedes": "2024-01-31"}}
    )
    assert await service.found("rate") == ["now"]


async def test_only_what_is_newer_is_found_beside_any_filter(rates: Service) -> None:
    assert await rates.found("rate", newer_than=days_ago(30)) == ["r2"]
    assert await rates.found("rate", newer_than=days_ago(500), filter={"kind": "rate"}, superseded=True) == ["r1"]
    explained = await rates.search("rate", newer_than=days_ago(500), filter={"kind": "rate"}, explain=True)
    assert explained["explanation"] == {"chunks": 3, "allowed": 1, "conditions": [1, 2]}


async def test_newness_decides_between_equals_and_its_weight_says_how_much(service: Service) -> None:
    await service.ingest(
        {"id": "old", "text": "the river rate", "metadata": {"date": days_ago(300)}},
        {"id": "new", "text": "the rate of a river and of many other things", "metadata": {"date": days_ago(0)}},
        {"id": "other", "text": "bread"},
    )
    query = "the river rate"
    assert (await service.found(query))[0] == "old"
    assert (await service.found(query, recency={"weight": 1.0, "half_life_days": 30}))[0] == "new"
    assert (await service.found(query, recency={"weight": 0.001}))[0] == "old"
    assert (await service.found(query, recency={"weight": 1.0, "half_life_days": 1e6}))[0] == "old"


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"newer_than": "yesterday"}, "/newer_than"),
        ({"recency": {"weight": 0}}, "/recency/weight"),
        ({"recency": {"half_life_days": -1}}, "/recency/half_life_days"),
    ],
)
async def test_what_is_no_date_or_weight_is_refused(service: Service, wrong: dict[str, object], pointer: str) -> None:
    answer = await service.client.post("/search", json={"query": "x", **wrong})
    problem(answer, 422, "invalid")
    assert pointers(answer) == [pointer]
