"""What the benchmark searches, and for what: pieces of fairy tales and questions about them, the same in every run."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

STORIES = Path(__file__).parent.parent / "tests" / "data" / "stories"
WORDS = (96, 180)
"""From the fewest to the most words of a passage: 170 tokens in the middle, and none is cut by any peer."""


@dataclass(frozen=True, slots=True)
class Passage:
    id: str
    text: str


def passages(amount: int) -> list[Passage]:
    """Windows over the tales, from evenly spaced places; of more than some 350 passages, neighbours overlap."""
    words = " ".join(_texts("corpus.jsonl.gz")).split()
    lengths = random.Random(1)
    starts = [number * len(words) // amount for number in range(amount)]
    around = words + words[: WORDS[1]]
    return [
        Passage(f"p{number}", " ".join(around[start : start + lengths.randint(*WORDS)]))
        for number, start in enumerate(starts)
    ]


def questions() -> list[str]:
    """All questions about the tales, in an order that does not follow the tales."""
    asked = _texts("queries.jsonl.gz")
    random.Random(1).shuffle(asked)
    return asked


def _texts(file: str) -> list[str]:
    with gzip.open(STORIES / file, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]
