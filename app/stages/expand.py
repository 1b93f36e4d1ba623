"""Expand: hits with the text around them; where two of one document meet, they become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Stretch:
    """A part of a document, and the hits that lie in it, best first."""

    document: str
    start: int
    end: int
    places: list[int]


def merged(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Those that overlap or touch made one, in the order of the best hit of each."""
    kept: list[Stretch] = []
    for each in sorted(stretches, key=lambda each: (each.document, each.start)):
        last = kept[-1] if kept else None
        if last and last.document == each.document and each.start <= last.end:
            last.end = max(last.end, each.end)
            last.places = sorted([*last.places, *each.places])
        else:
            kept.append(Stretch(each.document, each.start, each.end, list(each.places)))
    return sorted(kept, key=lambda each: each.places[0])
