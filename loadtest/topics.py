"""Texts as a library has them: topics of all sizes, and words of all frequencies.

The fake encoder makes of such texts what an encoder makes of real ones: vectors that lie in clusters. Of words drawn
evenly it makes vectors that are near to nothing, which a graph of neighbours is slow with and bad at.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

VOCABULARY, TOPICS, WORDS_OF_TOPIC = 20_000, 2000, 20
FALL = 1.2
"""How fast the frequency falls from one word to the next: the i-th is met i^-1.2 times as often as the first."""
TAIL = 1.2
"""Of the sizes of topics: a few are huge."""
OWN = 0.75
"""The share of a text's words that its topic gives."""
QUERY_WORDS = 8


class Topics:
    """Documents that can be made again from their number alone."""

    def __init__(self, words: int) -> None:
        """`words`: of a document, in the mean."""
        chance = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self._vocabulary = ["".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(VOCABULARY)]
        self._topics = [chance.choices(self._vocabulary, k=WORDS_OF_TOPIC) for _ in range(TOPICS)]
        self._sizes = list(accumulate(chance.paretovariate(TAIL) for _ in self._topics))
        self._often = list(accumulate(rank**-FALL for rank in range(1, VOCABULARY + 1)))
        self._words = words

    def text(self, number: int) -> str:
        chance = random.Random(number)
        (topic,) = chance.choices(self._topics, cum_weights=self._sizes)
        length = chance.randint(self._words // 2, self._words * 3 // 2)
        own = sum(chance.random() < OWN for _ in range(length))
        return " ".join(self._drawn(topic, own, chance) + self._drawn(self._vocabulary, length - own, chance))

    def query(self, documents: int, chance: random.Random) -> str:
        """Words of one of so many documents."""
        return " ".join(chance.sample(self.text(chance.randrange(documents)).split(), QUERY_WORDS))

    def _drawn(self, words: Sequence[str], amount: int, chance: random.Random) -> list[str]:
        return chance.choices(words, cum_weights=self._often[: len(words)], k=amount)
