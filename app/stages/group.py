"""Group: the hits of one document stand together."""

from __future__ import annotations

from collections.abc import Sequence


def grouped(documents: Sequence[str], groups: int, per_group: int) -> list[int]:
    """Places, best first, of the best so many documents, with the best so many hits of each."""
    held: dict[str, list[int]] = {}
    for place, document in enumerate(documents):
        held.setdefault(document, []).append(place)
    return [place for places in list(held.values())[:groups] for place in places[:per_group]]
