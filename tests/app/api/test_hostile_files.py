"""Files and forms made to do harm: each is refused in words, what stands beside it is taken, and nothing leaks."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.app.files.made import bomb, laughs, lying_bomb, word
from tests.app.serving import Service, body, pointers, problem

HEAD = b"--cut\r\nContent-Disposition: form-data; name="
END = b"--cut--\r\n"
CATALOGUE = b"1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"


def part(head: bytes, content: bytes = b"text") -> bytes:
    return HEAD + head + b"\r\n\r\n" + content + b"\r\n"


GOOD = part(b'"files"; filename="good.txt"')


async def post(service: Service, content: bytes, form: str = "multipart/form-data; boundary=cut") -> httpx.Response:
    return await service.client.post("/ingest/files", content=content, headers={"content-type": form})


def bare_pdf(second: bytes, trailer: bytes = b"") -> bytes:
    """A catalogue, one more object, and a table of where they are."""
    body = b"%PDF-1.4\n" + CATALOGUE
    offsets = (9, len(body))
    body += b"2 0 obj\n" + second + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(body)
    end = b"trailer << /Size 3 /Root 1 0 R %s >>\nstartxref\n%d\n" % (trailer.replace(b"HERE", b"%d" % start), start)
    return body + b"xref\n0 3\n0000000000 65535 f \n" + table + end + b"%%EOF\n"


def zip_of_zips(depth: int = 4) -> bytes:
    content = bytes(100_000)
    for _ in range(depth):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in range(10):
                archive.writestr(f"{name}.zip", content)
        content = made.getvalue()
    return content


def showing(path: Path) -> bytes:
    """A Word document whose heading would be what another file holds."""
    made, asked = io.BytesIO(), b'?><!DOCTYPE d [<!ENTITY e SYSTEM "file://%s">]>' % str(path).encode()
    with zipfile.ZipFile(io.BytesIO(word())) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "word/document.xml":
                content = content.replace(b"?>", asked, 1).replace(b"Tides", b"&e;")
            new.writestr(name, content)
    return made.getvalue()


HOSTILE = {
    "pages that are their own.pdf": bare_pdf(b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"),
    "a table before itself.pdf": bare_pdf(b"<< /Type /Pages /Kids [] /Count 0 >>", b"/Prev HERE"),
    "arrays in arrays.pdf": bare_pdf(b"<< /Type /Pages /Kids " + b"[" * 20_000 + b"]" * 20_000 + b" >>"),
    "zips in a zip.docx": zip_of_zips(),
    "zeros.docx": bomb(1100),
    "lies.docx": lying_bomb(),
    "entities.docx": laughs(),
    "tags in tags.html": b"<div>" * 3000 + b"x",
    "one line.csv": b"a,b\n" + b"x" * 2_000_000,
    "brackets.jsonl": b"[" * 100_000,
    "nothing.txt": b"",
    "a program.txt": b"MZ\x90\x00\x03\x00",
}


async def test_files_made_to_do_harm_are_named_one_by_one(service: Service) -> None:
    files = [("files", each) for each in [*HOSTILE.items(), ("good.txt", b"found all the same")]]
    told = body(await service.client.post("/ingest/files", files=files))["files"]
    assert {each["path"]: each["status"] for each in told} == dict.fromkeys(HOSTILE, "failed") | {"good.txt": "created"}
    assert all(each["reason"] and len(each["reason"]) < 400 for each in told[:-1])
    assert await service.found("found all the same") == ["good.txt"]


async def test_a_file_shows_nothing_of_ours(service: Service, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("tell nobody")
    await service.client.post("/ingest/files", files=[("files", ("leak.docx", showing(tmp_path / "secret")))])
    text = body(await service.client.get("/documents/leak.docx"))["text"]
    assert "The moon pulls." in text
    assert "tell nobody" not in text


NAMES = [
    "../../up.txt",
    "/etc/up.txt",
    "~/up.txt",
    "a/../../up.txt",
    "CON.txt",
    "nul.txt",
    "%2e%2e%2fup.txt",
    "\u202etxt.txt",
]


async def test_the_name_of_a_file_is_an_id_and_no_path(service: Service, tmp_path: Path) -> None:
    told = body(await post(service, b"".join(part(b'"files"; filename="%s"' % each.encode()) for each in NAMES) + END))
    assert [each["id"] for each in told["files"]] == NAMES
    for name in NAMES:
        assert body(await service.client.get(f"/documents/{quote(name, safe='')}"))["text"] == "text"
    assert {Path(name).name for name in NAMES}.isdisjoint(path.name for path in tmp_path.parent.rglob("*"))


@pytest.mark.parametrize(
    "content",
    [
        b"".join(part(b'"f%d"' % i) for i in range(10_000)) + END,
        b"".join(part(b'"files"; filename="%d.txt"' % i) for i in range(10_000)) + END,
        part(b'"files"; filename="a.txt"\r\nX-Long: ' + b"x" * 10**7) + END,
        part(b'"files"; filename="a.txt"\r\n' + b"X-Many: y\r\n" * 10**5) + END,
        part(b'"' + b"n" * 10**6 + b'"') + END,
        part(b'"metadata"', b"{" + b" " * 2 * 10**6 + b"}") + GOOD + END,
        b"--cut\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END,
        GOOD.replace(b"\r\n", b"\n") + END,
        b"before\r\n" + GOOD + END,
        GOOD,
    ],
    ids=["fields", "files", "header", "headers", "name", "field", "no name", "line ends", "preamble", "no end"],
)
async def test_a_form_that_is_too_much_or_none_is_refused(service: Service, content: bytes) -> None:
    problem(await post(service, content), 400, "malformed")


@pytest.mark.parametrize("charset", ["undefined", "unicode_escape", "utf-16", "latin-1", "x"])
async def test_a_form_that_is_not_in_utf8_is_refused(service: Service, charset: str) -> None:
    answer = await post(service, GOOD + END, f"multipart/form-data; boundary=cut; charset={charset}")
    assert "leave `charset` out" in problem(answer, 400, "malformed")["detail"]


async def test_a_form_may_say_that_it_is_in_utf8(service: Service) -> None:
    assert (await post(service, GOOD + END, "multipart/form-data; boundary=cut; charset=UTF-8")).status_code == 200


@pytest.mark.parametrize(
    "form", ["", "; boundary=", "; boundary=other", "; boundary=cut; boundary=other", '; boundary="\x7f"']
)
async def test_a_form_without_its_boundary_is_refused(service: Service, form: str) -> None:
    problem(await post(service, GOOD + END, f"multipart/form-data{form}"), 400, "malformed")


@pytest.mark.parametrize(
    ("content", "pointer", "why"),
    [
        (part(b'"collection"', b"one") + part(b'"collection"', b"default"), "/collection", "is there twice"),
        (part(b'"metadata"', b"{}") * 2, "/metadata", "is there twice"),
        (part(b'"files"'), "/files", "has no file's name"),
        (part(b'"metadata"; filename="m.json"', b"{}"), "/metadata", "is a file"),
        (part(b'"a/b~"'), "/a~1b~0", "is not known"),
        (part(b'""'), "/", "is not known"),
    ],
)
async def test_nothing_of_a_form_is_passed_over(service: Service, content: bytes, pointer: str, why: str) -> None:
    answer = await post(service, content + GOOD + END)
    problem(answer, 422, "invalid")
    assert pointers(answer) == [pointer]
    assert why in answer.text
