"""What the documents say is what the code does: the session runs, tables are those of the code, links lead on."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.metrics import MetricWrapperBase

from app.api import problems
from app.api.search_schemas import SearchBody
from app.settings import Settings
from app.telemetry import Metrics
from loadtest.process import Process

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
API = ROOT / "app" / "README.md"
OPERATION = ROOT / "deploy" / "README.md"
ADDRESS = "localhost:8000"


@dataclass(frozen=True)
class Step:
    """A command and what it is said to print; `…` stands for anything."""

    command: str
    output: str

    def accepts(self, printed: str) -> bool:
        pattern = ".*".join(re.escape(_squeezed(part)) for part in self.output.split("…"))
        return re.fullmatch(pattern, _squeezed(printed)) is not None


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def session() -> Iterator[Step]:
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(), re.S)
    for step in re.split(r"^\$ ", "".join(blocks), flags=re.M)[1:]:
        lines = step.splitlines()
        ends = next(i for i in range(1, len(lines) + 1) if _is_whole("\n".join(lines[:i])))
        yield Step("\n".join(lines[:ends]), "\n".join(lines[ends:]))


def _is_whole(command: str) -> bool:
    return not command.endswith("\\") and command.count("'") % 2 == 0


def ask(client: httpx.Client, command: str) -> str:
    """What curl would print; a machine fit for Winnow need not have it."""
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:2] == ["curl", "-s"], command
    url, *options = words[2:]
    given = dict(zip(options[::2], options[1::2], strict=True))
    name, _, value = given["-H"].partition(": ")
    return client.post(url.removeprefix(ADDRESS), content=given["-d"].encode(), headers={name: value}).text


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table beneath a heading of what operators read, by their first cell."""
    _, _, beneath = OPERATION.read_text("utf-8").partition(f"\n{heading}\n")
    rows = re.findall(r"^\|(.*)\|$", beneath.split("\n##")[0], re.M)
    cells = [[cell.strip().strip("`") for cell in row.split(" | ")] for row in rows[2:]]
    return {first: rest for first, *rest in cells}


def test_the_session_prints_what_it_says(tmp_path: Path) -> None:
    with Process(tmp_path, ENCODER="embedded", RERANKER="embedded") as service:
        service.await_ready()
        for step in session():
            if step.command != "make serve":
                printed = ask(service.client, step.command)
                assert step.accepts(printed), f"{step.command}\nprinted {printed}\nand not {step.output}"


def test_the_settings_table_is_that_of_the_code() -> None:
    said = {name: (default, why) for name, (default, why) in table("## Settings").items()}
    assert said == {
        f"WINNOW_{name.upper()}": (str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    }


def test_the_metrics_table_is_that_of_the_code() -> None:
    said = {name: (kind, labels, what) for name, (kind, labels, what) in table("## Metrics").items()}
    assert said == {
        shown(metric): (metric._type, ", ".join(metric._labelnames), metric._documentation) for metric in metrics()
    }


def shown(metric: MetricWrapperBase) -> str:
    """The name by which Prometheus knows it."""
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


def metrics() -> list[MetricWrapperBase]:
    return [each for each in vars(Metrics()).values() if isinstance(each, MetricWrapperBase)]


def test_the_errors_table_is_that_of_the_code() -> None:
    _, _, beneath = API.read_text("utf-8").partition("\n## Errors\n")
    said = set(re.findall(r"^\| ([0-9]+) \| `([a-z-]+)` \|", beneath, re.M))
    known = {(str(status), kind) for status, kind, _ in problems.TABLE.values()}
    assert said == known | {("500", "internal")}, "what Starlette finds stands beneath, as `http` of two statuses"


def test_the_search_table_has_every_field() -> None:
    _, _, beneath = API.read_text("utf-8").partition("\n## Search\n")
    rows = re.findall(r"^\|([^|]*)\|", beneath.split("\n### ")[0], re.M)
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(SearchBody.model_fields)


def test_imports_run_as_the_contract_has_it() -> None:
    (chain,) = re.findall(r"`(cli →[^`]*)`", README.read_text("utf-8"))
    (contract,) = [each for each in contracts() if each["name"] == "Imports run one way"]
    said = [{f"app.{name}" for name in layer.split(" | ")} for layer in re.split(r"\s*→\s*", chain)]
    assert [{"app.__main__"}, *said] == [set(layer.split(" | ")) for layer in contract["layers"]]


def contracts() -> list[dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    held: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return held


DOCUMENTS = [
    file for file in ROOT.rglob("*.md") if not {part[:1] for part in file.relative_to(ROOT).parts} & {".", "_"}
]
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for path, place in LINK.findall(document.read_text("utf-8")):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not place or place in places(target), f"{path}#{place}"


def places(document: Path) -> set[str]:
    """What can be pointed at: headings as the web shows them, and places that were given a name."""
    text = document.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings} | set(
        re.findall(r'<a name="([^"]+)">', text)
    )
