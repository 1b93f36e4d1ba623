"""python -m deploy.grafana.boards: write what Grafana loads."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.boards.board import Board
from deploy.grafana.boards.ingest import INGEST
from deploy.grafana.boards.overview import OVERVIEW
from deploy.grafana.boards.quality import QUALITY

BOARDS = (OVERVIEW, QUALITY, INGEST)
FOLDER = Path(__file__).parents[1] / "dashboards"


def written(board: Board) -> str:
    return json.dumps(board.json(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(written(board), "utf-8")
