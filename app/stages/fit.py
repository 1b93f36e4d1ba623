"""Fit: as many hits as a prompt has room for."""

from __future__ import annotations

from collections.abc import Sequence


def fitting(sizes: Sequence[int], room: int) -> list[int]:
    """Places, best first, of what fits; one that is too long for the rest of the room makes way for shorter ones."""
    kept = []
    for place, size in enumerate(sizes):
        if size <= room:
            kept.append(place)
            room -= size
    return kept
