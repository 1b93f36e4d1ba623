"""The threat model names tests that are there, and the scopes that the documents tell of are those of the code."""

from __future__ import annotations

import ast
import re

import pytest

from app.caller import SCOPES
from tests.deploy.boards import ROOT

NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "deploy/SECURITY.md").read_text("utf-8"))))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[f"{file}::{test}" for file, test in NAMED])
def test_what_is_said_to_be_shown_by_a_test_is(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    there = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert test in there if test else any(name.startswith("test_") for name in there)


def test_the_threat_model_names_tests_for_what_is_defended() -> None:
    assert len(NAMED) > 20


def test_the_readme_tells_of_every_scope() -> None:
    _, _, beneath = (ROOT / "deploy" / "README.md").read_text("utf-8").partition("| Scope | opens |")
    assert re.findall(r"^\| `(\w+)` \|", beneath.split("\n\n")[0], re.M) == sorted(
        SCOPES, key=lambda each: each == "admin"
    )
