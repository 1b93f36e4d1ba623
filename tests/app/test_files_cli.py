"""`winnow ingest FOLDER` with files of every kind, good, broken and hostile, against a real service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar
from urllib.parse import quote

import httpx
import pytest
from rich.console import Console

from app.terminal.client import Target, connect
from app.terminal.shipment import Shipment
from app.terminal.sources import Source
from app.terminal.upload import Screen, Tally, Upload
from loadtest.process import Process
from tests.app.files.made import COURIER, Grid, Text, encrypted_pdf, laughs, lying_bomb, pdf, sheet, slides, word
from tests.app.files.missing import missing
from tests.app.test_cli import Terminal, Told

PROSE = "Boats lie at the quay and wait for the water to come back.\n" * 12
MEMORY = 2**29

T = TypeVar("T")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    settings = {"FILE_SECONDS": 5, "FILE_MEMORY_BYTES": MEMORY, "FILE_WORKERS": 2}
    with Process(tmp_path_factory.mktemp("data"), ENCODER="fake", **settings) as running:
        running.await_ready()
        yield running


@pytest.fixture
def terminal(service: Process) -> Terminal:
    return Terminal(str(service.client.base_url))


def ingest(terminal: Terminal, folder: Path, collection: str) -> Told:
    if terminal("collections", "show", collection).code:
        assert terminal("collections", "create", collection).code == 0
    return terminal("ingest", folder, "-c", collection)


def good_files(at: int) -> dict[str, bytes]:
    """One of each kind, each with a word of its own that stands late in it."""
    chapters = [(f"Chapter {i}", "Some matter of course. " * 20) for i in range(3)]
    return {
        f"pdf/{at}.pdf": pdf(
            [Text("First", 20), Text(PROSE)],
            [Text("Second", 20), Text(PROSE), Grid([["Who", "What"], [f"pdftable{at}", "cell"]])],
            [Text("Third", 20), Text(PROSE), Text(f"def pdfcode{at}():\n    pass", 9, COURIER), Text(f"pdflast{at}")],
        ),
        f"word/{at}.docx": word([*chapters, ("Last", f"docxlast{at} it is.")]),
        f"slides/{at}.pptx": slides("one", "two", f"pptxlast{at}"),
        f"sheets/{at}.xlsx": sheet(One=[["Who", "What"], *([f"row {i}", i] for i in range(40)), [f"xlsxlast{at}", 7]]),
        f"web/{at}.html": f"<h1>Top</h1><p>{PROSE * 3}</p><h2>Low</h2><p>htmllast{at}</p>".encode(),
        f"values/{at}.csv": ("a,b\n" + "1,2\n" * 50 + f"csvlast{at},3\n").encode(),
    }


LONG_PAGE: list[Text | Grid] = [Text(PROSE), Grid([["a", "b", "c"]] * 40)]

BROKEN = {
    "bad/empty.pdf": (b"", "is empty"),
    "bad/cut.pdf": (pdf([Text(PROSE)])[:400], "can't be read as pdf"),
    "bad/locked.pdf": (encrypted_pdf(), "has a password"),
    "bad/scan.pdf": (pdf([], []), "holds no text"),
    "bad/word.pdf": (word(), "is not a PDF"),
    "bad/cut.docx": (word()[:3000], "is damaged"),
    "bad/old.xlsx": (b"\xd0\xcf\x11\xe0" + bytes(999), "older Office"),
    "bad/bomb.docx": (lying_bomb(2**30), "at most 536870912 are allowed"),
    "bad/liar.docx": (lying_bomb(), "can't be read as docx"),
    "bad/binary.md": (bytes(range(256)), "is not text"),
    "bad/deep.html": (b"<b>" * 5_000 + b"x", "is nested too deeply"),
    "bad/slow.pdf": (pdf(*[LONG_PAGE] * 400), "took longer than 5 seconds"),
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def outcomes(told: Told) -> dict[str, int]:
    return {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", told.output.split(":")[0])}


BUSY = "try again when the machine is less busy"
"""What a file is refused with that takes long, where others leave its reader too little."""


def test_of_200_mixed_files_all_good_ones_are_found_and_all_others_named(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    good = {name: content for at in range(4) for name, content in good_files(at).items()}
    notes = {f"notes/{i}.{'md' if i % 2 else 'txt'}": f"# Note\n\nAbout notelast{i}.".encode() for i in range(161)}
    others = {"latin.txt": "Überschwemmung".encode("latin-1"), "lines.jsonl": b'{"id": "l", "text": "linelast"}'}
    laughing = {"bad/laughs.docx": laughs()}
    files = good | notes | others | {name: content for name, (content, _) in BROKEN.items()} | laughing
    write(tmp_path, files)
    assert len(files) == 200

    before = memory(service, "VmRSS")
    told = ingest(terminal, tmp_path, "mixed")
    assert told.code == 1
    for name, (_, why) in BROKEN.items():
        named = f"refused {re.escape(name)}.*({re.escape(why)}|{BUSY})"
        assert re.search(named, told.errors), told.errors
    counts = outcomes(told)
    assert counts["created"] + counts["refused"] == 200
    assert counts["refused"] - len(BROKEN) in (0, 1), "laughing entities may be left out or the file refused"

    expected = {
        "pdftable3": ("pdf/3.pdf", 2, "Second"), "pdfcode3": ("pdf/3.pdf", 3, "Third"),
        "pdflast0": ("pdf/0.pdf", 3, "Third"),
        "docxlast2": ("word/2.docx", 4, "Last"), "pptxlast1": ("slides/1.pptx", 3, "Slide 2"),
        "xlsxlast0": ("sheets/0.xlsx", None, "One"), "htmllast3": ("web/3.html", None, "Top"),
        "csvlast2": ("values/2.csv", None, None), "notelast148": ("notes/148.txt", None, None),
        "Überschwemmung": ("latin.txt", None, None), "linelast": ("l", None, None),
    }  # fmt: skip
    for word_, (document, page, heading) in expected.items():
        answer = service.client.post("/search", json={"query": word_, "collection": "mixed", "top_k": 1}).json()
        (hit,) = answer["hits"]
        assert word_ in hit["text"]
        assert hit["document_id"] == document
        assert hit.get("last_page", hit.get("page")) == page
        assert heading is None or hit["heading"].endswith(heading) or hit.get("last_page")
    assert memory(service, "VmHWM") - before < MEMORY / 2


def memory(service: Process, what: str) -> int:
    """Of the service itself, in bytes."""
    assert service._process is not None
    told = Path(f"/proc/{service._process.pid}/status").read_text()
    return 1024 * int(re.findall(rf"{what}:\s+(\d+)", told)[0])


def test_a_second_run_sends_nothing_and_a_third_what_changed(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    write(tmp_path, good_files(0) | {"a.md": b"# A\n\nfirst", "b.txt": b"second"})
    assert outcomes(ingest(terminal, tmp_path, "again"))["created"] == 8
    before = uploads(service)
    told = ingest(terminal, tmp_path, "again")
    assert (told.code, outcomes(told)["unchanged"]) == (0, 8)
    assert uploads(service) == before
    write(tmp_path, {"a.md": b"# A\n\nchanged", "c.txt": b"third"})
    counts = outcomes(ingest(terminal, tmp_path, "again"))
    assert (counts["created"], counts["replaced"], counts["unchanged"]) == (1, 1, 7)
    assert uploads(service) == before + 1


def test_a_second_run_names_again_what_could_not_be_read_and_sends_none_of_it(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    names = ("bad/locked.pdf", "bad/cut.docx", "bad/old.xlsx", "bad/binary.md")
    write(tmp_path, {name: BROKEN[name][0] + b"\n" for name in names} | {"good.md": b"# Good"})
    first = outcomes(ingest(terminal, tmp_path, "refused"))
    assert (first["created"], first["refused"]) == (1, 4)
    before = uploads(service)
    told = ingest(terminal, tmp_path, "refused")
    assert told.code == 1
    assert outcomes(told) == {**dict.fromkeys(first, 0), "unchanged": 1, "refused": 4, "before": 4}
    for name in names:
        named = rf"refused {re.escape(name)}.*{re.escape(BROKEN[name][1])}.*\(refused before, not sent again\)"
        assert re.search(named, told.errors), told.errors
    assert uploads(service) == before

    write(tmp_path, {"bad/locked.pdf": pdf([Text("Open now.")])})
    changed = outcomes(ingest(terminal, tmp_path, "refused"))
    assert (changed["created"], changed["refused"], changed["before"]) == (1, 3, 3)
    (tmp_path / "bad/old.xlsx").unlink()
    again = terminal("ingest", tmp_path, "-c", "refused", "--retry")
    assert outcomes(again) == {**dict.fromkeys(first, 0), "unchanged": 2, "refused": 2}
    assert uploads(service) == before + 2


def test_what_is_no_file_or_can_not_be_opened_is_named_and_the_rest_goes_on(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    write(tmp_path, {"good.txt": b"fine", "folder.pdf/inside.txt": b"fine as well"})
    (tmp_path / "nowhere.pdf").symlink_to("gone")
    (tmp_path / "circle.md").symlink_to("circle.md")
    (tmp_path / "nowhere.jsonl").symlink_to("gone.jsonl")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.html"))
        told = ingest(terminal, tmp_path, "odd")
    assert told.code == 1
    assert (outcomes(told)["created"], outcomes(told)["refused"]) == (2, 3)
    for name in ("nowhere.pdf", "circle.md", "nowhere.jsonl"):
        assert re.search(rf"refused {name} can't be ", told.errors), told.errors
    for name in ("pipe.txt", "socket.html"):
        assert re.search(rf"skipped .*{name}", told.errors), told.errors


def test_a_folder_that_a_link_leads_to_is_named_and_not_gone_into(terminal: Terminal, tmp_path: Path) -> None:
    write(tmp_path, {"docs/good.txt": b"fine", "elsewhere/far.txt": b"far away"})
    (tmp_path / "docs/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "docs/circle").symlink_to(tmp_path / "docs")
    told = ingest(terminal, tmp_path / "docs", "linked")
    assert (told.code, outcomes(told)["created"]) == (0, 1)
    for name in ("link", "circle"):
        assert re.search(rf"skipped .*docs/{name}: a link to a folder", told.errors), told.errors


def test_a_file_that_becomes_a_folder_before_it_is_read_is_named(service: Process, tmp_path: Path) -> None:
    write(tmp_path, {"good.txt": b"still here", "folder.txt/inside.txt": b"x"})
    sources = [Source(tmp_path / name, name, 10) for name in ("folder.txt", "good.txt")]

    async def upload() -> Tally:
        async with connect(Target(str(service.client.base_url))) as client:
            return await Upload(client, "default", Screen(Console(stderr=True), 20)).run(sources)

    tally = asyncio.run(upload())
    assert (tally.taken, tally.refused) == (1, 1)
    assert tally.refusals[0].startswith("folder.txt can't be sent: [Errno 21] Is a directory")


def test_files_without_permission_are_named_and_the_rest_goes_on(terminal: Terminal, tmp_path: Path) -> None:
    write(tmp_path, {"good.txt": b"mine", "secret.txt": b"not mine", "lines.jsonl": b"{}", "shut/a.txt": b"x"})
    for name, mode in (("secret.txt", 0), ("lines.jsonl", 0), ("shut", 0o400)):
        (tmp_path / name).chmod(mode)
    if os.access(tmp_path / "secret.txt", os.R_OK):
        pytest.skip("this user may read everything, as root may")
    try:
        told = ingest(terminal, tmp_path, "permitted")
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert (outcomes(told)["created"], outcomes(told)["refused"]) == (1, 3)
    for name in ("secret.txt", "lines.jsonl", "shut/a.txt"):
        assert re.search(rf"refused {name} .*Permission denied", told.errors), told.errors


def test_pruning_deletes_what_was_made_of_files_that_are_gone_and_nothing_else(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    write(
        tmp_path, {"stays.md": b"it stays", "goes.txt": b"it goes", "lines.jsonl": b'{"id": "line", "text": "a line"}'}
    )
    ingest(terminal, tmp_path, "pruned")
    (tmp_path / "goes.txt").unlink()
    assert "deleted" not in ingest(terminal, tmp_path, "pruned").output
    told = terminal("ingest", tmp_path, "-c", "pruned", "--prune")
    assert "1 deleted" in told.output
    for name, status in (("stays.md", 200), ("line", 200), ("goes.txt", 404)):
        assert service.client.get(f"/documents/{name}", params={"collection": "pruned"}).status_code == status


def test_a_file_is_known_and_kept_whatever_its_name_is_made_of(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    names = (
        'she said "no".md', "she said %22no%22.md", "back\\slash.md", 'mixed\\".md', "c:\\notes.md", "\\\\share.md",
        'semi; filename="x".md', "50%.md", "näher.md",
    )  # fmt: skip
    write(tmp_path, {name: f"# {number}".encode() for number, name in enumerate(names)})
    ingest(terminal, tmp_path, "names")
    before = uploads(service)
    told = terminal("ingest", tmp_path, "-c", "names", "--prune")
    assert (told.code, outcomes(told)["unchanged"], uploads(service)) == (0, len(names), before)
    assert "deleted" not in told.output
    for number, name in enumerate(names):
        answer = service.client.get(f"/documents/{quote(name, safe='')}", params={"collection": "names"})
        assert answer.json()["text"] == f"# {number}"

    write(tmp_path, {"two\nlines.md": b"# none"})
    told = terminal("ingest", tmp_path, "-c", "names", "--prune")
    assert (told.code, outcomes(told)["refused"], "deleted" in told.output) == (1, 1, False)
    assert "holds the control character U+000A: remove it" in told.errors


def test_pruning_leaves_alone_what_was_not_made_of_a_file_and_says_that_it_has_a_path(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    by_hand = {"id": "mine", "text": "no file", "metadata": {"file": {"path": "elsewhere.md", "kind": "markdown"}}}
    write(tmp_path, {"goes.txt": b"it goes", "lines.jsonl": json.dumps(by_hand).encode()})
    ingest(terminal, tmp_path, "by-hand")
    (tmp_path / "goes.txt").unlink()
    told = terminal("ingest", tmp_path, "-c", "by-hand", "--prune")
    assert (told.code, "1 deleted" in told.output) == (0, True), "though none of what is left is a file"
    assert held(service, "by-hand", ["mine", "goes.txt"]) == {"mine"}


def test_pruning_goes_on_beside_a_file_whose_name_is_no_text(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    write(tmp_path, {"stays.md": b"it stays", "goes.md": b"it goes"})
    ingest(terminal, tmp_path, "no-text")
    (tmp_path / "goes.md").unlink()
    (tmp_path / os.fsdecode(b"\xff.md")).write_bytes(b"# Named in bytes")
    told = terminal("ingest", tmp_path, "-c", "no-text", "--prune")
    assert (told.code, "1 deleted" in told.output) == (1, True)
    assert "has a name that is not UTF-8: rename it" in told.errors
    assert held(service, "no-text", ["stays.md", "goes.md"]) == {"stays.md"}


def test_pruning_knows_more_files_than_a_filter_may_name(terminal: Terminal, service: Process, tmp_path: Path) -> None:
    assert terminal("collections", "create", "many").code == 0
    here = [f"{number:05}.md" for number in range(25_000)]
    stay = [*here[::2500], here[4999], here[-1]]
    gone = ["!.md", "04999.md.md", "05000!.md", "24999x.md", "\U0001f980.md"]
    write(tmp_path, {name: name.encode() for name in (*stay, *gone)})
    ingest(terminal, tmp_path, "many")

    async def prune() -> int:
        async with connect(Target(str(service.client.base_url))) as client:
            sources = [Source(tmp_path / name, name, 0) for name in reversed(here)]
            return await Shipment(client, "many", Console(stderr=True).print).prune(sources)

    assert asyncio.run(prune()) == len(gone)
    assert held(service, "many", [*stay, *gone]) == set(stay)


def held(service: Process, collection: str, names: list[str]) -> set[str]:
    """Those of the documents that the collection has."""
    asked = {name: service.client.get(f"/documents/{quote(name)}", params={"collection": collection}) for name in names}
    return {name for name, answer in asked.items() if answer.status_code == 200}


def uploads(service: Process) -> int:
    told = service.client.get("/metrics").text
    counts = re.findall(r'winnow_request_seconds_count\{route="/ingest/files",status="\d+"\} (\S+)', told)
    return sum(int(float(count)) for count in counts)


def test_a_file_that_is_too_large_for_an_upload_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "docs", {"large.txt": b"word " * 1000, "small.txt": b"small", "other.txt": b"other"})
    with Process(tmp_path / "data", ENCODER="fake", MAX_UPLOAD_BYTES=2048) as running:
        running.await_ready()
        told = Terminal(str(running.client.base_url))("ingest", tmp_path / "docs")
    assert told.code == 1
    assert "refused large.txt can't be sent: The request is too large" in told.errors
    assert outcomes(told)["created"] == 2


def test_files_that_grow_and_shrink_while_they_are_sent_stop_nothing(
    terminal: Terminal, service: Process, tmp_path: Path
) -> None:
    write(tmp_path, {f"{i}.txt": b"some words\n" * 50 for i in range(60)} | {"log.txt": b"", "last.md": b"good words"})
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            with (tmp_path / "log.txt").open("ab") as log:
                log.write(b"one more line\n" * 100)
                if log.tell() > 2**16:
                    log.truncate(1000)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(2):
            counts = outcomes(ingest(terminal, tmp_path, "growing"))
            assert counts["refused"] <= 1, "it may be empty at that moment"
            assert sum(counts.values()) == 62
    finally:
        over.set()
        changing.join()
    asked = {"query": "good words", "collection": "growing", "top_k": 1}
    assert service.client.post("/search", json=asked).json()["hits"][0]["document_id"] == "last.md"


def test_without_the_extra_the_files_that_need_it_are_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "docs", good_files(0) | {f"{i}.pdf": pdf([Text(PROSE)]) for i in range(9)} | {"a.md": b"# Sea"})
    monkeypatch.setenv(
        "PYTHONPATH", missing(tmp_path, "pdfplumber", "python-docx", "python-pptx", "openpyxl", "markdownify")
    )
    with Process(tmp_path / "data", ENCODER="fake") as running:
        running.await_ready()
        for created in (2, 0):
            told = Terminal(str(running.client.base_url))("ingest", tmp_path / "docs")
            assert told.code == 1
            assert outcomes(told)["created"] == created
            assert outcomes(told)["refused"] == 14
            for name in ("word/0.docx", "pdf/0.pdf", "8.pdf"):
                assert re.search(rf"refused {name} .*pip install .* '\.\[files\]'", told.errors), told.errors


def test_an_ingest_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write(tmp_path / "docs", {f"{i:02}.md": b"# Note\n\nNumber %d." % i for i in range(14)})
    with Process(tmp_path / "data", ENCODER="fake") as running:
        running.await_ready()
        half = [("files", (f"{i:02}.md", b"# Note\n\nNumber %d." % i)) for i in range(5)]
        assert running.client.post("/ingest/files", files=half).status_code == 200
        running.kill()
        lost = Terminal(str(running.client.base_url))("ingest", tmp_path / "docs")
        assert (lost.code, "run the same command again to resume" in lost.errors) == (3, True)
        running.start()
        running.await_ready()
        counts = outcomes(Terminal(str(running.client.base_url))("ingest", tmp_path / "docs"))
    assert (counts["created"], counts["unchanged"]) == (9, 5)


def test_hits_show_page_and_headings_in_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    write(tmp_path, {"sea.pdf": pdf([Text("Tides", 20), Text(PROSE)], [Text("Salt", 20), Text(PROSE), Text("okapi")])})
    ingest(terminal, tmp_path, "shown")
    told = terminal("search", "okapi", "-c", "shown", "-k", 1)
    assert "page 2, Salt" in told.output
    answer = json.loads(terminal("search", "okapi", "-c", "shown", "-k", 1, "--json").output)
    assert answer["hits"][0]["page"] == 2


def test_no_conversion_outlives_a_service_that_is_killed(tmp_path: Path) -> None:
    with Process(tmp_path, ENCODER="fake") as running:
        running.await_ready()
        assert running._process is not None
        url = f"{running.client.base_url}/ingest/files"
        sending = threading.Thread(target=lambda: send_in_vain(url, BROKEN["bad/slow.pdf"][0]))
        sending.start()
        child = eventually(lambda: next(iter(children(running._process.pid)), None))  # type: ignore[union-attr]
        sleep(1.0)  # for it to be at work; one that has just begun looks whether the service is still there
        running.kill()
        sending.join()
        assert eventually(lambda: not is_alive(child))


def send_in_vain(url: str, content: bytes) -> None:
    with suppress(httpx.TransportError):
        httpx.post(url, files=[("files", ("slow.pdf", content))], timeout=60)


def children(process: int) -> list[int]:
    told = (each.read_text() for each in Path("/proc").glob("[0-9]*/stat"))
    return [int(one.split()[0]) for one in told if int(one.rpartition(")")[2].split()[1]) == process]


def is_alive(process: int) -> bool:
    """One that has ended may still be listed, until somebody takes note."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def eventually(holds: Callable[[], T | None]) -> T:
    deadline = monotonic() + 30
    while not (found := holds()):
        assert monotonic() < deadline, "it never came to pass"
        sleep(0.02)
    return found
