"""Rows to label as a page that needs no server: a key for each grade, and everything kept in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import orjson
from markupsafe import Markup

from app.quality.html import fill
from app.quality.labels import GRADES, Row, as_object


def render(rows: Sequence[Row], file: Path) -> str:
    """The whole page. What is labelled there is kept in the browser by the file's name, so that the page of a larger
    pool goes on where this one was, and is saved as JSON lines."""
    data = orjson.dumps([as_object(row) for row in rows])
    return fill(
        "label.html",
        ["page.css", "label.css"],
        "label.js",
        {},
        grades=GRADES,
        questions=len({row.query.id for row in rows}),
        amount=len(rows),
        name=sha256(str(file.resolve()).encode()).hexdigest()[:16],
        data=_inert(data.decode()),
    )


def _inert(json: str) -> Markup:
    """JSON that can't end the element it stands in."""
    return Markup(json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
