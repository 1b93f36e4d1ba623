"""The command line as a person and a script meet it: real processes, real files, a real service."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.stores.keys import KeyFile
from app.terminal import documents, sources, upload
from app.terminal.client import Failure, Refused, Target, connect, read_settings
from loadtest.process import Process

PATIENCE = 60.0

Answer = tuple[Any, ...]
"""Of another service: its status, its headers, and lines of JSON or whatever it says."""
FAKES = {"WINNOW_ENCODER": "fake", "WINNOW_RERANKER": "fake", "COLUMNS": "200"}

SATURN = {"id": "saturn", "title": "Saturn", "text": "The planet Saturn has rings of ice and rock.", "year": 2020}
BREAD = {"_id": 7, "text": "Bread rises because yeast turns sugar into gas.", "metadata": {"year": 2021}}
VIOLIN = "# The violin\n\nA violin has four strings and is played with a bow.\n"


class Told:
    """How a command ended and what it said."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = output
        self.errors = errors


def winnow(*arguments: object, **environment: str) -> Told:
    """Run the command in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        env=os.environ | FAKES | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return Told(ended.returncode, ended.stdout, ended.stderr)


class Terminal:
    """Runs commands here, against a service elsewhere."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: object, **environment: str) -> Told:
        ran = CliRunner(env={"WINNOW_URL": self.url, "COLUMNS": "200"} | environment).invoke(
            app, [*map(str, arguments)]
        )
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return Told(ran.exit_code, ran.stdout, ran.stderr)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("data"), ENCODER="fake") as running:
        running.await_ready()
        yield running


@pytest.fixture
def terminal(service: Process) -> Terminal:
    return Terminal(str(service.client.base_url))


@pytest.fixture
def collection(terminal: Terminal, request: pytest.FixtureRequest) -> str:
    """A collection of the test's own."""
    name = f"c{abs(hash(request.node.name))}"
    assert terminal("collections", "create", name).code == 0
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents of every kind that can be read."""
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    write_lines(tmp_path / "docs" / "facts.jsonl", SATURN, BREAD)
    (tmp_path / "docs" / "sub" / "violin.md").write_text(VIOLIN)
    (tmp_path / "docs" / "sub" / "treaty.txt").write_text("The treaty was signed by both ministers.")
    return tmp_path / "docs"


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def document(service: Process, name: str, collection: str) -> dict[str, Any]:
    answer = service.client.get(f"/documents/{name}", params={"collection": collection})
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_what_a_collection_holds_is_listed_and_taken_along(
    terminal: Terminal, folder: Path, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PAGE", 3)
    assert terminal("ingest", folder, "-c", collection).code == 0

    table = terminal("documents", "-c", collection)
    assert {"saturn", "7", "sub/violin.md", "sub/treaty.txt"} < set(table.output.split())
    assert "and more" not in table.output
    assert "and more" in terminal("documents", "-c", collection, "--limit", 3).output

    (tmp_path / "corpus.jsonl").write_text(terminal("documents", "-c", collection, "--jsonl").output)
    lines = {each["id"]: each for each in map(json.loads, (tmp_path / "corpus.jsonl").read_text().splitlines())}
    assert lines.keys() == {"saturn", "7", "sub/violin.md", "sub/treaty.txt"}
    assert lines["saturn"] == {**{name: SATURN[name] for name in ("id", "text", "title")}, "metadata": {"year": 2020}}
    again = terminal("ingest", tmp_path / "corpus.jsonl", "-c", collection)
    assert "3 unchanged" in again.output, "all but the Markdown are as they were"

    chosen = terminal("documents", "-c", collection, "--filter", '{"year": {"$gt": 2020}}', "--jsonl")
    assert [json.loads(line)["id"] for line in chosen.output.splitlines()] == ["7"]
    assert terminal("documents", "-c", "nowhere").code != 0


def test_a_folder_is_ingested_and_searched_without_a_service(folder: Path, tmp_path: Path) -> None:
    ingested = winnow("ingest", folder, "--data-dir", tmp_path / "data")
    assert ingested.code == 0, ingested.errors
    assert "4 created, 0 replaced, 0 updated, 0 unchanged, 0 refused" in ingested.output
    found = winnow("search", "planet with rings", "--data-dir", tmp_path / "data")
    rows = [line.split() for line in found.output.splitlines()]
    first = next(row for row in rows if row and row[0] == "1")
    assert "saturn" in first
    assert rows[rows.index(first) + 1].count("#1") == 4
    assert "4 candidates, 4 reranked; truncated: embed 0, rerank 0" in found.output
    assert next(row for row in rows if "milliseconds" in row) == [
        "milliseconds", "embed", "filter", "retrieve", "fuse", "load", "rerank", "total",
    ]  # fmt: skip


def test_a_reader_who_goes_before_the_last_document_ends_a_listing_without_a_word(folder: Path, tmp_path: Path) -> None:
    assert winnow("ingest", folder, "--data-dir", tmp_path / "data").code == 0
    listing = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "documents", "--jsonl", "--data-dir", str(tmp_path / "data")],
        env=os.environ | FAKES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout
    listing.stdout.close()
    listing.stdout = None
    _, errors = listing.communicate(timeout=PATIENCE)
    assert errors == b""


def test_running_an_ingest_again_finds_everything_unchanged(terminal: Terminal, collection: str, folder: Path) -> None:
    terminal("ingest", folder, "-c", collection)
    again = terminal("ingest", folder, "-c", collection)
    assert again.code == 0
    assert "0 created, 0 replaced, 0 updated, 4 unchanged, 0 refused" in again.output


def test_files_become_documents_as_the_help_says(
    terminal: Terminal, service: Process, collection: str, folder: Path
) -> None:
    assert terminal("ingest", folder, "-c", collection).code == 0
    assert document(service, "saturn", collection)["metadata"] == {"year": 2020}
    assert document(service, "7", collection)["metadata"] == {"year": 2021}
    violin = document(service, "sub/violin.md", collection)
    assert (violin["title"], violin["text"]) == ("The violin", VIOLIN)
    assert violin["format"] == "markdown"
    told = {name: violin["metadata"]["file"][name] for name in ("path", "kind")}
    assert told == {"path": "sub/violin.md", "kind": "markdown"}
    assert document(service, "sub/treaty.txt", collection)["title"] == "treaty"


def test_compressed_lines_are_read(terminal: Terminal, collection: str, tmp_path: Path) -> None:
    (tmp_path / "facts.ndjson.gz").write_bytes(gzip.compress(json.dumps(SATURN).encode()))
    assert "1 created" in terminal("ingest", tmp_path, "-c", collection).output


def test_refused_documents_are_named_with_file_line_and_reason(
    terminal: Terminal, collection: str, tmp_path: Path
) -> None:
    twice = {"text": "x", "year": 1, "metadata": {"year": 2}}
    write_lines(tmp_path / "mixed.jsonl", SATURN, "no json", "[1]", "", {"id": "a", "text": " "}, {"text": 5}, twice)
    (tmp_path / "binary.txt").write_bytes(b"caf\0")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 100)[:-9])
    told = terminal("ingest", tmp_path, "-c", collection)
    assert told.code == 1
    assert "1 created, 0 replaced, 0 updated, 0 unchanged, 7 refused" in told.output
    for line in (
        "mixed.jsonl:2 is not valid JSON",
        "mixed.jsonl:3 is not a JSON object",
        "mixed.jsonl:5 /text is empty",
        "mixed.jsonl:6 /text should be a valid string",
        "mixed.jsonl:7 has 'year' both in its metadata and beside it",
        "binary.txt is not text, though its name says so",
        "cut.jsonl.gz can't be read any further",
    ):
        assert line in told.errors


def test_beyond_the_first_twenty_refused_documents_are_counted(
    terminal: Terminal, collection: str, tmp_path: Path
) -> None:
    told = terminal("ingest", write_lines(tmp_path / "bad.jsonl", *["no json"] * 50), "-c", collection)
    assert told.errors.count("is not valid JSON") == 20
    assert "… and 30 more refused" in told.errors


def test_other_and_hidden_files_are_left_alone_and_the_former_named(
    terminal: Terminal, collection: str, folder: Path
) -> None:
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / ".hidden.txt").write_text("secret")
    told = terminal("ingest", folder, "-c", collection)
    assert told.code == 0
    assert "photo.jpg" in told.errors
    assert "4 created" in told.output
    assert "1 files skipped" in told.output


def test_files_that_would_become_one_document_are_not_mixed(terminal: Terminal, folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    (other / "treaty.txt").write_text("Another treaty.")
    told = terminal("ingest", folder / "sub", other)
    assert told.code == 2
    assert "would both become the document 'treaty.txt'" in told.errors


def test_many_documents_are_sent_in_batches_none_of_which_is_large(tmp_path: Path) -> None:
    write_lines(tmp_path / "many.jsonl", *({"id": f"{i}", "text": "word " * 10_000} for i in range(450)))
    found = sources.find([tmp_path])
    sent = list(sources.batches(found.sources))
    assert sum(len(batch.good) for batch in sent) == 450
    assert all(len(batch.body) < sources.BATCH_BYTES + 100_000 for batch in sent)
    assert all(len(batch.good) <= sources.BATCH_DOCUMENTS for batch in sent)
    assert sent[-1].read == found.size


def test_a_busy_service_is_waited_for(tmp_path: Path) -> None:
    def slowly() -> Iterator[bytes]:
        for number in range(8):
            yield json.dumps({"id": f"slow{number}", "text": "slow"}).encode() + b"\n"
            sleep(0.25)

    write_lines(tmp_path / "facts.jsonl", SATURN)
    with Process(tmp_path / "data", MAX_REQUESTS=1) as service:
        service.await_ready()
        url = str(service.client.base_url)
        occupy = threading.Thread(
            target=lambda: httpx.post(
                f"{url}/ingest", content=slowly(), headers={"content-type": "application/x-ndjson"}, timeout=PATIENCE
            )
        )
        occupy.start()
        sleep(0.5)
        told = Terminal(url)("ingest", tmp_path / "facts.jsonl")
        occupy.join()
    assert "the service is busy, asking again in" in told.errors
    assert told.code == 0
    assert "1 created" in told.output


def test_an_ingest_goes_on_at_the_pace_of_its_keys_allowance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.terminal.client.TIMEOUT", httpx.Timeout(2.0))
    _, shown = KeyFile(tmp_path / "data" / "keys.json").create("few", ["ingest"], [], 6000)
    lines = [{"id": f"{number}", "text": f"{number} " + "word " * 90} for number in range(70)]
    with Process(tmp_path / "data", ENCODER="fake") as service:
        service.await_ready()
        began = monotonic()
        told = Terminal(str(service.client.base_url))(
            "ingest", write_lines(tmp_path / "many.jsonl", *lines), WINNOW_API_KEY=shown
        )
    assert (told.code, "70 created" in told.output) == (0, True), told.errors
    assert monotonic() - began > 2.5, "or it was never slowed down"


def test_a_lost_service_ends_an_ingest_with_code_3_and_says_how_to_resume(folder: Path) -> None:
    told = Terminal("http://127.0.0.1:9")("ingest", folder)
    assert told.code == 3
    assert "http://127.0.0.1:9 can't be reached" in told.errors
    assert "run the same command again to resume" in told.errors


def test_search_options_reach_the_service(terminal: Terminal, collection: str, folder: Path) -> None:
    terminal("ingest", folder, "-c", collection)
    options = ("--filter", '{"year": {"$gt": 2020}}', "--mode", "dense", "--no-rerank", "--exact", "--top-k", 2)
    told = terminal("search", "planet with rings", "-c", collection, "--json", *options)
    answer = json.loads(told.output)
    assert [hit["document_id"] for hit in answer["hits"]] == ["7"]
    assert list(answer["hits"][0]["stages"]) == ["dense"]
    assert answer["reranked"] == 0


def test_a_search_without_hits_says_so(terminal: Terminal, collection: str) -> None:
    told = terminal("search", "anything", "-c", collection)
    assert told.code == 0
    assert f"Nothing found in collection '{collection}'." in told.output


def test_markup_in_documents_is_shown_as_it_is(terminal: Terminal, collection: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"id": "[red]x[/nope]", "title": "[bold]", "text": "brackets [/] stay"})
    terminal("ingest", tmp_path, "-c", collection)
    told = terminal("search", "brackets", "-c", collection)
    assert "[red]x[/nope]" in told.output
    assert "brackets [/] stay" in told.output


def test_what_the_service_refuses_is_told_line_by_line(terminal: Terminal) -> None:
    told = terminal("search", "x", "--filter", '{"year": {"$gtx": 1}}')
    assert told.code == 1
    assert "The filter is invalid" in told.errors
    assert "/filter/year/$gtx is an unknown operator" in told.errors


def test_a_filter_that_is_not_json_is_a_usage_error(terminal: Terminal) -> None:
    told = terminal("search", "x", "--filter", "{year")
    assert told.code == 2
    assert "A filter is JSON" in told.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "x", "--min-score", "nan"], "nan is not a number that anything compares with"),
        (["search", "x", "--min-relevance", "inf"], "inf is not a number that anything compares with"),
        (["search", "x", "--filter", '{"year": NaN}'], "A filter is JSON"),
        (["search", "x", "--filter", '{"year": "\udcff"}'], "A filter is JSON"),
        (["search", "sea \udcff"], 'can\'t be written in utf-8: \'{"query":"sea \\udcff'),
        (["collections", "show", "\udcff"], "can't be written in utf-8: '\\udcff'"),
        (["collections", "--url", "http://127.0.0.1:99999"], "is not an address: there is no port 99999"),
        (["collections", "--url", "http://127.0.0.1:-1"], "is not an address: there is no port -1"),
    ],
)
def test_an_argument_that_no_request_can_say_is_a_usage_error(
    terminal: Terminal, arguments: list[str], said: str
) -> None:
    told = terminal(*arguments)
    assert told.code == 2
    assert said in told.errors


def test_another_services_refusal_is_told_whatever_its_faults_look_like() -> None:
    for errors in ({"name": ["is taken"]}, ["is taken"], [{"field": "name"}], "is taken", None):
        problem = {"title": "Not so", "detail": "Ask otherwise.", "errors": errors}
        with elsewhere({"/collections": [(400, {}, problem)]}) as url:
            told = Terminal(url)("collections")
        assert (told.code, told.errors) == (1, "winnow: Not so: Ask otherwise.\n")


@pytest.mark.parametrize("said", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "nan", "-1", "0"])
def test_a_busy_service_may_say_in_any_way_when_to_come_back(said: str, tmp_path: Path) -> None:
    busy: Answer = (503, {"Retry-After": said}, {"title": "Busy"})
    with elsewhere({"/ingest": [busy, (200, {}, {"status": "created"}, {"job": None})]}) as url:
        told = Terminal(url)("ingest", write_lines(tmp_path / "one.jsonl", SATURN))
    assert "asking again in 1 s" in told.errors
    assert "1 created" in told.output


def test_a_service_that_does_not_even_say_why_it_is_slow_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "STALLED_SECONDS", 0.1)
    running = {"state": "running", "documents": 1, "pending": 1, "failed": 0, "error": None}
    done = running | {"state": "done", "pending": 0}
    answers: dict[str, list[Answer]] = {
        "/ingest": [(202, {}, {"status": "created"}, {"job": "j"})],
        "/jobs/j": [*[(200, {}, running)] * 5, (200, {}, done)],
        "/readyz": [(429, {}, {"title": "Too many requests", "detail": "Connections are full."})],
    }
    with elsewhere(answers) as url:
        told = Terminal(url)("ingest", write_lines(tmp_path / "one.jsonl", SATURN))
    assert told.code == 0
    assert "became searchable for 0 s: Too many requests: Connections are full." in told.errors


@pytest.mark.parametrize(("answer", "said"), [(b"", "answer broke off"), (b"<html>", "does not answer as Winnow does")])
def test_an_ingest_into_what_is_no_winnow_says_so(tmp_path: Path, answer: bytes, said: str) -> None:
    with elsewhere({"/ingest": [(200, {}, answer)]}) as url:
        told = Terminal(url)("ingest", write_lines(tmp_path / "one.jsonl", SATURN))
    assert told.code == 3
    assert said in told.errors


async def test_readiness_of_a_service_that_is_gone_or_another_one_is_a_failure() -> None:
    async with connect(Target("http://127.0.0.1:9")) as client:
        with pytest.raises(Failure, match="can't be reached") as caught:
            await client.readiness()
        assert caught.value.code == 3
    others: list[Answer] = [(429, {}, {"title": "Too many"}), (503, {}, {"title": "Stopping"}), (200, {}, ["ready"])]
    for answer in others:
        with elsewhere({"/readyz": [answer]}) as url:
            async with connect(Target(url)) as client:
                with pytest.raises(Refused):
                    await client.readiness()


@contextmanager
def elsewhere(answers: dict[str, list[Answer]]) -> Iterator[str]:
    """Another service, at an address: by path its answers in their order, the last one for good."""
    left = {path: list(each) for path, each in answers.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            come = left[self.path.partition("?")[0]]
            status, headers, *lines = come.pop(0) if len(come) > 1 else come[0]
            content = b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def test_collections_are_created_listed_shown_and_dropped(terminal: Terminal) -> None:
    created = terminal("collections", "create", "papers", "--chunk-tokens", 64, "--title", "every")
    assert created.code == 0
    assert "papers" in terminal("collections").output
    shown = dict(line.rsplit(maxsplit=1) for line in terminal("collections", "show", "papers").output.splitlines())
    assert (shown["chunk tokens"], shown["titles"]) == ("64", "every")
    assert terminal("collections", "drop", "papers").code == 1, "nobody answered the question"
    assert terminal("collections", "drop", "papers", "--yes").code == 0
    assert "There is no collection 'papers'" in terminal("collections", "show", "papers").errors


def test_an_address_before_the_subcommand_counts(terminal: Terminal) -> None:
    told = terminal("collections", "--url", terminal.url, "show", "default", WINNOW_URL="http://127.0.0.1:9")
    assert told.code == 0


def test_another_server_at_the_address_is_not_taken_for_winnow(terminal: Terminal) -> None:
    told = terminal("collections", "--url", f"{terminal.url}/elsewhere")
    assert told.code == 1
    assert "404" in told.errors or "Not Found" in told.errors


def test_a_service_stops_cleanly_on_sigterm_and_sigint(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        port = free_port()
        command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", str(tmp_path)]
        running = subprocess.Popen(command, env=os.environ | FAKES, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert running.stdout is not None
        with running, running.stdout as lines:
            said = [lines.readline().decode().split() for _ in range(4)]
            assert httpx.get(f"{said[0][-1]}/healthz").status_code == 200
            running.send_signal(number)
            assert running.wait(PATIENCE) == 0
        address = f"http://127.0.0.1:{port}"
        assert said[0][-1] == address
        assert said[1:] == [["docs", f"{address}/docs"], ["metrics", f"{address}/metrics"], ["data", str(tmp_path)]]


def test_ctrl_c_before_the_command_line_is_there_ends_it_without_a_word() -> None:
    heard_on_import = """
import os, signal, sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupted())
from app.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", heard_on_import], capture_output=True, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGINT
    assert not ended.stderr


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", "nowhere.invalid"])
def test_a_name_that_no_machine_has_is_told_in_a_sentence(tmp_path: Path, host: str) -> None:
    told = winnow("serve", "--host", host, "--data-dir", tmp_path / "data")
    assert told.code == 2
    assert f"Winnow can't listen on {host}, port 8000" in " ".join(told.errors.split())


def test_a_port_in_use_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = winnow("serve", "--port", taken.getsockname()[1], "--data-dir", tmp_path / "data")
    assert told.code == 2
    assert "is in use" in told.errors
    assert not (tmp_path / "data").exists()


def test_a_folder_that_a_service_works_in_is_not_opened_twice(tmp_path: Path) -> None:
    with Process(tmp_path) as service:
        service.await_ready()
        told = winnow("search", "x", "--data-dir", tmp_path)
        second = winnow("serve", "--port", free_port(), "--data-dir", tmp_path)
    for each in (told, second):
        assert each.code == 2
        assert "Another Winnow works in" in each.errors
        assert each.errors.count("--url") == 1, "told once"


def test_a_search_does_not_create_an_empty_data_folder(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["search", "x", "--data-dir", str(tmp_path / "nowhere")])
    assert ran.exit_code == 2
    assert "There is no data in" in ran.stderr
    assert not (tmp_path / "nowhere").exists()


def test_flags_go_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "winnow.toml").write_text('encoder = "file"\nreranker = "file"\ndevice = "file"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINNOW_ENCODER", "variable")
    monkeypatch.setenv("WINNOW_RERANKER", "variable")
    settings = read_settings(encoder="flag", reranker=None)
    assert (settings.encoder, settings.reranker, settings.device) == ("flag", "variable", "file")


@pytest.mark.parametrize(
    ("file", "variables", "said"),
    [
        ("", {"WINNOW_PORT": "abc"}, "WINNOW_PORT should be a valid integer"),
        ("port = 99999", {}, "port in w.toml should be less than or equal to 65535, not 99999"),
        ("prot = 1", {}, "prot in w.toml is not a setting: is port meant?"),
        ("port = ", {}, "w.toml can't be read as TOML"),
    ],
)
def test_a_bad_setting_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, variables: dict[str, str], said: str
) -> None:
    (tmp_path / "w.toml").write_text(file)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner(env=variables | {"WINNOW_CONFIG": "w.toml"}).invoke(app, ["serve"])
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_a_settings_file_that_is_missing_is_not_passed_over() -> None:
    ran = CliRunner(env={"WINNOW_CONFIG": "nowhere.toml"}).invoke(app, ["serve"])
    assert ran.exit_code == 2
    assert "There is no settings file nowhere.toml" in ran.stderr


def test_the_version_is_told_and_every_command_helps() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("winnow ")
    for command in (["serve"], ["ingest"], ["search"], ["collections"], ["collections", "create"]):
        helped = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*command, "--help"])
        assert helped.exit_code == 0
        assert f"winnow {' '.join(command)}" in helped.stdout


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
