from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.quality.dataset import read
from app.quality.measures import NDCG
from app.quality.pipeline import evaluate
from app.quality.types import Evaluation, Run
from app.quality.variants import Setup
from app.terminal.asking import ask, bounded
from app.terminal.client import Client, Failure, Target
from app.types import Recipe
from tests.app.quality.folders import ANIMALS, bench, silent, write
from tests.app.serving import fakes, listening

ARMS = ["dense", "lexical", "fused", "fused+rerank", "fused+blend"]


def take_in(server: httpx.Client, names: list[str], collection: str = "default") -> None:
    documents = [{"id": name, "text": ANIMALS[name]} for name in names]
    server.post("/ingest", json={"documents": documents, "collection": collection}).raise_for_status()


def asked(server: httpx.Client, folder: Path, *setups: Setup) -> list[tuple[Evaluation, list[Run]]]:
    target = Target(str(server.base_url))
    return asyncio.run(ask(target, [read(folder)], setups, silent, 0))


def of(collection: str, **more: object) -> Setup:
    return Setup("fake", "fake", collection=collection, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("fusing", [{}, {"by": "ranks", "lexical": 2.0}])
def test_a_service_answers_as_the_models_do_offline(
    server: httpx.Client, tmp_path: Path, fusing: dict[str, object]
) -> None:
    folder = write(tmp_path / "set")
    take_in(server, list(ANIMALS))
    ((online, runs),) = asked(server, folder, of("default", fusing=fusing))
    offline, others = evaluate(read(folder), Setup("fake", "fake", Recipe(), fusing=fusing), bench(), 0)
    assert [arm.name for arm in online.arms] == ARMS
    for name in ARMS:
        (one,), (other,) = ([run.scores for run in each if run.arm == name] for each in (runs, others))
        assert {query: pytest.approx(scores, abs=1e-5) for query, scores in one.items()} == other
        assert online.arm(name).measures == offline.arm(name).measures
    assert online.ceilings[0].recall.mean == 1
    assert online.served == offline.served == "fused+blend"


def advise_against_reranking(server: httpx.Client, mode: str) -> None:
    """As `winnow calibrate` does where the reranker makes the order worse."""
    known = server.get("/collections/default/calibration").json()
    scale = {"scores": [0.0, 1.0], "relevance": [0.1, 0.9]}
    told = {name: known[name] for name in ("encoder", "reranker", "sparse", "late", "fusion")}
    body = told | {"mode": mode, "reranked": scale, "unreranked": scale, "rerank": False, "advice": "It does harm."}
    server.put("/collections/default/calibration", json=body).raise_for_status()


@pytest.mark.parametrize(
    ("mode", "encoder", "reranks", "served"),
    [
        ("dense", "fake", True, "dense+blend"),
        ("lexical", "fake:late", True, "lexical+blend"),
        ("hybrid", "fake", False, "fused"),
        ("hybrid", "fake:late", False, "fused+late"),
        ("dense", "fake:late", False, "dense+late"),
        ("lexical", "fake:late", False, "lexical"),
    ],
)
def test_what_is_called_served_is_what_a_search_answers_that_says_no_more_than_its_query(
    tmp_path: Path, mode: str, encoder: str, reranks: bool, served: str
) -> None:
    folder = write(tmp_path / "set")
    with listening(fakes(tmp_path / "data", mode=mode, encoder=encoder)) as server:
        take_in(server, list(ANIMALS))
        if not reranks:
            advise_against_reranking(server, mode)
        ((found, runs),) = asked(server, folder, of("default"))
        usual = [
            server.post("/search", json={"query": query.text, "collection": "default"}).json()
            for query in found.queries
        ]
    assert found.served == served
    (run,) = (each.scores for each in runs if each.arm == served)
    for query, answer in zip(found.queries, usual, strict=True):
        assert list(run[query.id]) == [hit["document_id"] for hit in answer["hits"]]
        assert list(run[query.id].values()) == pytest.approx([hit["score"] for hit in answer["hits"]])
    assert (usual[0]["mode"], usual[0]["reranked"] > 0) == (mode, reranks)


def test_a_service_that_shows_too_few_hits_to_measure_is_told_which_setting_to_raise(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    with listening(fakes(tmp_path / "data", max_top_k=100)) as server:
        take_in(server, list(ANIMALS))
        with pytest.raises(Failure, match="WINNOW_MAX_TOP_K to at least 500"):
            asked(server, folder, of("default"))


def test_a_collection_with_a_sparse_encoder_is_asked_for_that_stage_too(server: httpx.Client, tmp_path: Path) -> None:
    server.post("/collections", json={"name": "sparse", "sparse": "fake"}).raise_for_status()
    folder = write(tmp_path / "set")
    take_in(server, list(ANIMALS), "sparse")
    ((online, runs),) = asked(server, folder, of("sparse"))
    offline, others = evaluate(read(folder), Setup("fake", "fake", Recipe(), sparse="fake"), bench(), 0)
    assert [arm.name for arm in online.arms] == ["dense", "lexical", "sparse", *ARMS[2:]]
    for name in ("sparse", "fused", "fused+blend"):
        (one,), (other,) = ([run.scores for run in each if run.arm == name] for each in (runs, others))
        assert {query: pytest.approx(scores, abs=1e-5) for query, scores in one.items()} == other
        assert online.arm(name).measures == offline.arm(name).measures


def test_latencies_are_the_services_own(server: httpx.Client, tmp_path: Path) -> None:
    take_in(server, list(ANIMALS))
    ((evaluation, _),) = asked(server, write(tmp_path / "set"), of("default"))
    stages = {each.stage: each for each in evaluation.latencies}
    assert list(stages) == ["embed", "filter", "retrieve", "fuse", "load", "rerank", "total"]
    assert all(each.queries == 4 for each in stages.values())
    assert stages["total"].p50 >= stages["rerank"].p50


def test_the_search_that_is_timed_is_the_first_that_a_service_hears_of_a_question(
    server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, list[bool]] = {}
    patiently = Client.patiently

    async def listened(client: Client, method: str, path: str, tell: Callable[[str], None], **request: Any) -> Any:
        if path == "/search":
            heard.setdefault(request["json"]["query"], []).append(request["json"]["rerank"])
        return await patiently(client, method, path, tell, **request)

    monkeypatch.setattr(Client, "patiently", listened)
    take_in(server, list(ANIMALS))
    asked(server, write(tmp_path / "set"), of("default"))
    assert list(heard.values()) == [[True, False, False, False]] * 4


async def test_when_one_question_fails_none_is_left_under_way() -> None:
    under_way = set[int]()

    async def answer(number: int) -> int:
        under_way.add(number)
        try:
            await asyncio.sleep(0 if number == 1 else 60)
            raise Failure("No.")
        finally:
            under_way.remove(number)

    with pytest.raises(Failure, match=r"No\."):
        await bounded(answer, range(10))
    assert not under_way


def test_many_queries_are_all_asked_and_kept_in_order(server: httpx.Client, tmp_path: Path) -> None:
    queries = {f"q{number}": f"who makes honey or hunts mice {number}" for number in range(70)}
    grades = {name: {"bee" if number % 2 else "owl": 1} for number, name in enumerate(queries)}
    folder = write(tmp_path / "set", queries=queries, answers=grades)
    take_in(server, list(ANIMALS))
    ((evaluation, runs),) = asked(server, folder, of("default"))
    assert list(runs[0].scores) == list(queries)
    assert evaluation.latencies[0].queries == 50
    assert evaluation.arm("dense").measure("recall@5").estimate.mean == 1


def test_missing_documents_are_counted(server: httpx.Client, tmp_path: Path) -> None:
    take_in(server, ["owl", "bee"])
    ((evaluation, _),) = asked(server, write(tmp_path / "set"), of("default"))
    told = " ".join(evaluation.warnings)
    assert "3 of 5 relevant documents are not searchable in 'default' and count as not found." in told
    assert "'default' holds 2 documents and set has 5" in told
    assert evaluation.arm("dense").measure("recall@100").estimate.mean == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)


def test_a_collection_without_any_of_them_is_refused(server: httpx.Client, tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    with pytest.raises(Failure, match="holds none of the relevant documents of set"):
        asked(server, folder, of("default"))
    with pytest.raises(Failure, match="nowhere"):
        asked(server, folder, of("nowhere"))


def test_collections_and_candidates_are_compared(server: httpx.Client, tmp_path: Path) -> None:
    recipe = {"chunk_tokens": 16, "overlap_tokens": 0}
    server.post("/collections", json={"name": "short", "recipe": recipe}).raise_for_status()
    take_in(server, list(ANIMALS))
    take_in(server, list(ANIMALS), "short")
    setups = of("default"), of("short", name="collection=short"), of("default", candidates=(1,), name="candidates=1")
    found = asked(server, write(tmp_path / "set"), *setups)
    (whole, _), (short, _), (one, runs) = found
    assert (whole.settings["chunk_tokens"], short.settings["chunk_tokens"]) == (256, 16)
    assert one.settings["candidates"] == one.ceilings[0].candidates == 1
    assert all(len(scores) == 1 for run in runs[3:] for scores in run.scores.values())
    assert one.arm("dense").measure(NDCG) == whole.arm("dense").measure(NDCG)
    assert ["remember" in " ".join(each.warnings) for each, _ in found] == [False, True, True]


@pytest.mark.parametrize("place", [0, 60])
def test_a_query_that_the_service_refuses_ends_it_with_the_services_words(
    server: httpx.Client, tmp_path: Path, place: int
) -> None:
    queries = {f"q{number}": "who makes honey" if number != place else "honey " * 5000 for number in range(70)}
    folder = write(tmp_path / "set", queries=queries, answers={name: {"bee": 1} for name in queries})
    take_in(server, list(ANIMALS))
    with pytest.raises(Failure, match="/query"):
        asked(server, folder, of("default"))
