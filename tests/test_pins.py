"""What is pinned can be installed wherever the project says that it runs."""

from __future__ import annotations

import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def _pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}


def _oldest_python() -> str:
    """The first release of the oldest that the project promises."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (promised,) = SpecifierSet(project["requires-python"])
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
