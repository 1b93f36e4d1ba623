"""A process that finds some packages no more than if they had never been installed."""

from __future__ import annotations

import os
from pathlib import Path

BLIND = """
import importlib.machinery as m, sys

class Blind(m.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {names!r} else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context):
        return [] if context.name in {names!r} else super().find_distributions(context)

sys.meta_path = [Blind if finder is m.PathFinder else finder for finder in sys.meta_path]
"""


def missing(folder: Path, *names: str) -> str:
    """The PYTHONPATH for it; its children are blind in the same way."""
    (folder / "sitecustomize.py").write_text(BLIND.format(names=names))
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
