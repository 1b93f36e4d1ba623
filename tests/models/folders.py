"""Changes to saved models that tests make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def edit(file: Path, **changes: Any) -> None:
    """Sets keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
