"""Documents are split once for good, as long as nothing changes that splits them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from app.quality import corpus
from app.quality.dataset import read
from app.stages import chunk, markdown
from app.types import Recipe
from tests.app.quality.folders import bench, write


def edited(module: ModuleType, folder: Path) -> ModuleType:
    """The same with a line more at its end, as a later commit may have it."""
    path = folder / f"{module.__name__}.py"
    path.write_text(f"{Path(str(module.__file__)).read_text('utf-8')}\nLATER = True\n", "utf-8")
    spec = importlib.util.spec_from_file_location(module.__name__, path)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


@pytest.mark.parametrize("changed", [chunk, markdown])
def test_documents_are_split_anew_when_the_code_that_splits_them_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: ModuleType
) -> None:
    done: list[str] = []

    @contextmanager
    def track(what: str, total: int) -> Iterator[Callable[[int], object]]:
        done.append(what)
        yield lambda steps: None

    dataset, made = read(write(tmp_path / "set")), replace(bench(tmp_path), track=track)

    def split() -> list[str]:
        done.clear()
        corpus.split(dataset, Recipe(32, 8), made.encoder("fake"), made.reranker("fake"), None, made)
        return list(done)

    assert split() == ["set: chunk"]
    assert split() == []
    later = {each: edited(each, tmp_path) if each is changed else each for each in (chunk, markdown)}
    monkeypatch.setattr(corpus, "SPLITTING", tuple(later.values()), raising=False)
    assert split() == ["set: chunk"]
