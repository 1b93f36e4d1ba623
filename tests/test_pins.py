"""What is imported is named, and what is pinned can be installed wherever the project says that it runs."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def _pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}


def _project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _oldest_python() -> str:
    """The first release of the oldest that the project promises."""
    (promised,) = SpecifierSet(_project()["requires-python"])
    assert promised.operator == ">="
    return f"{promised.version}.0"


def test_no_pin_asks_for_a_newer_python_than_the_project() -> None:
    """Debian 12 has Python 3.11.2: a package that wants 3.11.5 can't be installed there."""
    pinned = _pinned()
    pythons = {
        found.name: SpecifierSet(found.metadata["Requires-Python"] or "")
        for found in distributions()
        if canonicalize_name(found.name) in pinned
    }
    assert len(pythons) > len(pinned) / 2
    assert [name for name, taken in pythons.items() if _oldest_python() not in taken] == []


def _named(*extras: str) -> set[str]:
    """What the project asks for, and what it asks for beside that with such extras."""
    project = _project()
    asked = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(each).name) for each in asked}


def _imported(folder: str) -> Iterator[str]:
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("models", ("train",)),
        ("app", ("evaluate", "files", "otel", "train")),
        ("loadtest", ("evaluate", "loadtest", "dev")),
        ("tests", ("evaluate", "files", "otel", "train", "dev")),
    ],
)
def test_every_package_that_is_imported_is_one_that_the_project_names(folder: str, extras: tuple[str, ...]) -> None:
    """What comes along with another package may stay away when that one changes."""
    ours = {"app", "models", "tests", "loadtest", "deploy"}
    found = {name.partition(".")[0] for name in _imported(folder)} - sys.stdlib_module_names - ours
    makers = packages_distributions()
    comes_of = {name: {canonicalize_name(maker) for maker in makers.get(name, [name])} for name in found}
    named = _named(*extras)
    assert {name: makers for name, makers in comes_of.items() if not named & makers} == {}
