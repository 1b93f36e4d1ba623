"""`winnow calibrate` as a person meets it: labels, a service that runs, and searches that know what scores mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from tests.app.quality.folders import write
from tests.app.quality.test_page import Tree
from tests.app.serving import Json, fakes, listening
from tests.app.test_cli import winnow

WORDS = [f"word{number}" for number in range(400)]
DOCUMENTS = 40
STRANGE = "Which kraken yodels under zeppelins?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of random words; questions with many or few words of one of them, or of none."""
    draw = Random(7)
    documents = {f"d{number}": " ".join(draw.sample(WORDS, 20)) for number in range(DOCUMENTS)}
    queries, answers = {}, {}
    for number in range(60):
        name = f"d{number % DOCUMENTS}"
        known = draw.sample(documents[name].split(), draw.choice([2, 4, 6]))
        queries[f"q{number}"] = " ".join(draw.sample([*known, *draw.sample(WORDS, 4)], len(known) + 4))
        answers[f"q{number}"] = {name: 1}
    for number in range(20):
        queries[f"none{number}"] = " ".join(draw.sample(WORDS, 8))
    return write(tmp_path_factory.mktemp("labels") / "set", documents, queries, answers)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Two collections with the dataset's documents; one has a reranker that puts the worst first."""
    with listening(fakes(tmp_path_factory.mktemp("data"))) as client:
        client.headers["connection"] = "close"  # it idles while commands run, for as long as the server waits
        client.post("/collections", json={"name": "bad", "reranker": "fake:backwards"}).raise_for_status()
        rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
        documents = [{"id": row["_id"], "text": row["text"]} for row in rows]
        for collection in ("default", "bad"):
            client.post("/ingest", json={"documents": documents, "collection": collection}).raise_for_status()
        yield client


def calibrate(server: httpx.Client, *arguments: object) -> Result:
    words = ["calibrate", *map(str, arguments), "--candidates", "20", "--url", str(server.base_url)]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, words)


def search(server: httpx.Client, query: str, **more: object) -> Json:
    answer = server.post("/search", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def queries(folder: Path) -> dict[str, str]:
    return {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def found(server: httpx.Client, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What `winnow calibrate` writes and prints, made once and kept nowhere."""
    path = tmp_path_factory.mktemp("found") / "found.json"
    told = calibrate(server, folder, "--dry-run", "--output", path)
    assert told.exit_code == 0, told.stderr
    assert server.get("/collections/default/calibration").json()["calibrations"] == []
    return path, told.stdout


@pytest.fixture
def kept(server: httpx.Client, found: tuple[Path, str]) -> Iterator[Json]:
    """The same, kept until the test is over."""
    made: Json = json.loads(found[0].read_text())
    server.put("/collections/default/calibration", json=made).raise_for_status()
    yield made
    server.delete("/collections/default/calibration").raise_for_status()


def test_the_report_tells_order_blend_errors_and_thresholds(found: tuple[Path, str]) -> None:
    told = found[1]
    assert "fitted to 40 queries, measured with 40 others, 10 of them without an answer" in told
    for part in (
        "first stage",
        "reranker alone",
        "refitted blend",
        "Expected calibration error",
        "by chance",
        "refused",
    ):
        assert part in told


def test_probabilities_are_right_on_the_half_that_nothing_was_fitted_to(kept: Json) -> None:
    measured = kept["measured"]["reranked"]["reliability"]
    assert measured["shown"]["hits"] == 400
    assert measured["shown"]["ece"]["mean"] <= 0.05
    assert measured["candidates"]["ece"]["mean"] <= 0.05


def test_hits_carry_relevance_and_the_irrelevant_are_left_out(server: httpx.Client, folder: Path, kept: Json) -> None:
    question = queries(folder)["q0"]
    for more in ({}, {"rerank": False}):
        hits = search(server, question, **more)["hits"]
        relevance = [hit["relevance"] for hit in hits]
        assert relevance == sorted(relevance, reverse=True)
        assert all(0 < each < 1 for each in relevance)
        limit = relevance[2]
        above = search(server, question, min_relevance=limit, **more)["hits"]
        assert above == [hit for hit in above if hit["relevance"] >= limit]
        assert [hit["id"] for hit in above] == [hit["id"] for hit in hits if hit["relevance"] >= limit]


def test_questions_without_an_answer_are_refused_at_the_stated_rate(
    server: httpx.Client, folder: Path, kept: Json
) -> None:
    """All of them, half of which were fitted to; the interval is that of the other half."""
    asked = [text for name, text in queries(folder).items() if name.startswith("none")]
    for row in kept["measured"]["reranked"]["reliability"]["thresholds"]:
        answers = [search(server, text, min_relevance=row["at"]) for text in asked]
        empty = [answer for answer in answers if not answer["hits"]]
        assert all(answer["nothing_relevant"] for answer in empty)
        assert not any("nothing_relevant" in answer for answer in answers if answer["hits"])
        assert row["refused"]["low"] - 0.1 <= len(empty) / len(asked) <= row["refused"]["high"] + 0.1


def test_the_command_line_shows_relevance_and_says_when_nothing_is(
    server: httpx.Client, folder: Path, kept: Json
) -> None:
    def asked(*arguments: str) -> str:
        told = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["search", *arguments, "--url", str(server.base_url)])
        assert told.exit_code == 0, told.stderr
        return told.stdout

    assert "relevance" in asked(queries(folder)["q0"])
    assert "Nothing relevant in collection 'default'." in asked(STRANGE, "--min-relevance", "0.5")


def test_without_a_calibration_relevance_cannot_be_asked_for(server: httpx.Client) -> None:
    assert all("relevance" not in hit for hit in search(server, "word1")["hits"])
    answer = server.post("/search", json={"query": "word1", "min_relevance": 0.5})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == "/min_relevance"
    assert "winnow calibrate DATASET --collection default --mode hybrid" in fault["detail"]


def test_another_mode_and_another_fusion_have_no_map(server: httpx.Client, kept: Json) -> None:
    refused: list[Json] = [{"mode": "dense"}, {"rerank": False, "fusion": {"k": 5}}]
    for more in refused:
        answer = server.post("/search", json={"query": "word1", "min_relevance": 0.5, **more})
        assert answer.status_code == 422, more
        assert all("relevance" not in hit for hit in search(server, "word1", **more)["hits"])
    assert all("relevance" in hit for hit in search(server, "word1", fusion={"k": 5})["hits"])


@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_every_mode_has_its_own(server: httpx.Client, folder: Path, kept: Json, mode: str) -> None:
    told = calibrate(server, folder, "--mode", mode, "--queries", 50)
    assert told.exit_code == 0, told.stderr
    assert f"Kept for {mode} searches of 'default'." in told.stdout
    assert all("relevance" in hit for hit in search(server, "word1 word2", mode=mode)["hits"])
    described = server.get("/collections/default").json()["calibrations"]
    assert [each["mode"] for each in described] == sorted([mode, "hybrid"])


def test_a_reranker_that_does_harm_is_named_and_not_asked_by_accident(server: httpx.Client, folder: Path) -> None:
    told = calibrate(server, folder, "--collection", "bad")
    assert told.exit_code == 0, told.stderr
    assert "the reranker fake:backwards" in told.stdout
    assert "Searches are not reranked unless they say so." in told.stdout
    (described,) = server.get("/collections/bad").json()["calibrations"]
    assert described["rerank"] is False
    assert "fake:backwards" in described["advice"]
    found = search(server, queries(folder)["q1"], collection="bad")
    assert (found["reranked"], found["models"]["reranker"]) == (0, None)
    assert found["advice"].startswith("Not reranked; say rerank: true")
    asked = search(server, queries(folder)["q1"], collection="bad", rerank=True)
    assert (asked["reranked"], asked["models"]["reranker"]) == (40, "fake:backwards")
    assert asked["advice"].startswith("Reranked as asked.")
    assert "advice" not in search(server, queries(folder)["q1"])


def test_what_stands_is_shown_until_it_is_forgotten(server: httpx.Client, folder: Path) -> None:
    assert calibrate(server, folder, "--collection", "bad", "--queries", 50).exit_code == 0
    shown = calibrate(server, "--show", "--collection", "bad")
    assert shown.exit_code == 0, shown.stderr
    assert re.search(r"Kept on \d{4}-\d\d-\d\dT", shown.stdout)
    assert re.search(r"bad, hybrid: fitted to \d\d queries", shown.stdout)
    for part in ("first stage", "min_relevance", "reranker's own scores, first ten"):
        assert part in shown.stdout
    assert re.search(r"^ *0\.5 ", shown.stdout, re.MULTILINE), "thresholds have room on a narrow terminal"
    assert "the reranker fake:backwards" in shown.stdout
    assert "Searches are not reranked unless they say so." in shown.stdout
    (*_, told) = calibrate(server, "--show", "--collection", "bad", "--json").stdout.splitlines()
    assert json.loads(told) == server.get("/collections/bad/calibration").json()
    other = calibrate(server, "--show", "--collection", "bad", "--mode", "dense")
    assert (other.exit_code, "has no calibration for dense searches" in other.stderr) == (1, True)
    gone = calibrate(server, "--forget", "--collection", "bad")
    assert (gone.exit_code, "The calibrations of 'bad' are forgotten." in gone.stdout) == (0, True)
    assert server.get("/collections/bad/calibration").json()["calibrations"] == []
    assert search(server, "word1", collection="bad")["reranked"] > 0


def test_figures_of_another_version_are_not_guessed_at(server: httpx.Client, kept: Json, tmp_path: Path) -> None:
    server.put("/collections/default/calibration", json=kept | {"measured": {"seed": 1}}).raise_for_status()
    shown = calibrate(server, "--show")
    assert shown.exit_code == 0, shown.stderr
    assert "can't be shown: calibrate again" in shown.stdout
    page = calibrate(server, "--show", "--html", tmp_path / "page.html")
    assert (page.exit_code, "There are no figures" in page.stderr) == (1, True)
    assert not (tmp_path / "page.html").exists()


def test_what_does_not_hold_any_more_is_shown_as_such(found: tuple[Path, str], tmp_path: Path) -> None:
    with listening(fakes(tmp_path)) as client:
        client.put("/collections/default/calibration", json=json.loads(found[0].read_text())).raise_for_status()
    told = winnow("calibrate", "--show", WINNOW_DATA_DIR=str(tmp_path), WINNOW_RERANKER="fake:backwards")
    assert told.code == 0, told.errors
    assert "It does not hold any more: it was made with another reranker: run `winnow calibrate` again." in told.output


def test_the_page_has_the_reliability_diagram_of_each_mode(
    server: httpx.Client, folder: Path, kept: Json, tmp_path: Path
) -> None:
    made, shown = tmp_path / "new" / "made.html", tmp_path / "shown.html"
    told = calibrate(server, folder, "--mode", "dense", "--html", made)
    assert told.exit_code == 0, told.stderr
    assert calibrate(server, "--show", "--html", shown).exit_code == 0
    one, both = Tree(made.read_text()), Tree(shown.read_text())
    assert (one.open, both.open) == ([], [])
    assert one.texts["h2"][0] == "dense searches"
    assert both.texts["h2"][:2] == ["dense searches", "hybrid searches"]
    assert both.tags["figure"] == 2 * one.tags["figure"] == 6
    assert "10 bins of 40 hits" in both.texts["figcaption"][3]
    for name in ("reranker's own", "calibrated", "exactly right"):
        assert name in both.texts["text"]


def test_a_calibration_travels_in_a_file_but_not_to_other_models(
    server: httpx.Client, kept: Json, found: tuple[Path, str]
) -> None:
    path = found[0]
    server.delete("/collections/default/calibration").raise_for_status()
    carried = calibrate(server, "--from", path)
    assert carried.exit_code == 0, carried.stderr
    (back,) = server.get("/collections/default/calibration").json()["calibrations"]
    assert {name: back[name] for name in kept if name != "created_at"} == {
        name: value for name, value in kept.items() if name != "created_at"
    }
    refused = calibrate(server, "--from", path, "--collection", "bad")
    assert refused.exit_code == 1
    assert "made with another reranker" in refused.stderr


def test_what_a_person_can_get_wrong_is_said(server: httpx.Client, folder: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few", answers={"q1": {"owl": 1}})
    (tmp_path / "no.json").write_text("{")
    cases: dict[tuple[object, ...], str] = {
        (): "Name a dataset, or say one of --from, --show and --forget",
        (folder, "--from", tmp_path / "no.json"): "no more than one",
        ("--show", "--forget"): "no more than one",
        ("--forget", "--mode", "dense"): "leave out --mode",
        ("--forget",): "has no calibration",
        ("--show",): "'default' has no calibration",
        ("--show", "--collection", "nowhere"): "no collection 'nowhere'",
        (folder, "--html", tmp_path / "no.json" / "page.html", "--dry-run"): "can't be written",
        (folder, "--output", tmp_path, "--dry-run"): "can't be written",
        ("--from", tmp_path / "no.json"): "is no calibration",
        (few,): "holds none of the relevant documents",
        (folder, "--queries", 15): "20 are the least",
        (folder, "--collection", "nowhere"): "no collection 'nowhere'",
        (folder, "--judged-only", "--no-unjudged"): "Every candidate counts as relevant",
    }
    for arguments, words in cases.items():
        told = calibrate(server, *arguments)
        assert told.exit_code in (1, 2), arguments
        assert words in told.stderr.replace("\n", " "), arguments


def test_queries_that_nobody_judged_can_be_left_out(server: httpx.Client, folder: Path) -> None:
    told = calibrate(server, folder, "--dry-run", "--no-unjudged", "--seed", 3)
    assert told.exit_code == 0, told.stderr
    assert "fitted to 30 queries, measured with 30 others\n" in told.stdout
    assert "nobody knows how many of such are refused" in told.stdout


def test_json_has_everything(server: httpx.Client, folder: Path) -> None:
    told = calibrate(server, folder, "--dry-run", "--json", "--seed", 3, "--queries", 50)
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["measured"]["seed"] == 3
    assert len(found["measured"]["reranked"]["reliability"]["bins"]) == 10
    assert {each["name"] for each in found["measured"]["orders"]} >= {"first stage", "own blend"}
