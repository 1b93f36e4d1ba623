"""Changes to saved models that tests make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SETTINGS = "config_sentence_transformers.json"


def edit(file: Path, **changes: Any) -> None:
    """Sets keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def silenced(folder: Path) -> Path:
    """A model that was saved before sentence-transformers knew prompts."""
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({key: value for key, value in settings.items() if key != "prompts"}))
    return folder
