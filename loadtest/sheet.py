"""A page of plots that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.quality import html, plots

STYLE = (html.FOLDER / "page.css").read_text()


def page(title: str, heading: str, figures: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> str:
    """Plots with their titles, beneath what there is to say of all of them."""
    shown = "".join(f"<figure><h3>{escape(name)}</h3>{plot}</figure>" for name, plot in figures)
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    top = f"<h1>{escape(title)}</h1><p>{escape(heading)}</p>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{top}{told}{shown}</body></html>'


def point(x: float, value: float) -> plots.Point:
    """One without an interval."""
    return plots.Point(x, value, value, value)
