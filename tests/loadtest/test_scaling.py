from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtest import scaling
from loadtest.service import Command, Unavailable


def test_each_search_looks_its_filter_and_its_question_up(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Command] = []

    def running(commands: Sequence[Command], folder: Path, log: Path) -> None:
        started.extend(commands)
        raise Unavailable("it is not started here", log)

    monkeypatch.setattr(scaling, "running", running)
    with pytest.raises(Unavailable):
        scaling.filled([10], 128, rounded=True)
    told = started[0].environment
    assert (told["WINNOW_FILTER_CACHE_BYTES"], told["WINNOW_QUERY_CACHE_BYTES"]) == ("0", "0")
    assert (told["WINNOW_INDEX_DIMENSIONS"], told["WINNOW_INDEX_PRECISION"]) == ("128", "int8")
