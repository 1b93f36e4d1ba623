"""BM25 over texts, as the share of a query's weight that a text carries: what a service's lexical index says too."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from models.words import Language, query_words, text_words

Floats = NDArray[np.float32]

K1, B = 1.2, 0.75
"""The service's."""


class Lexicon:
    """The words of all texts, weighed."""

    def __init__(self, texts: Sequence[str], language: Language) -> None:
        self._language = language
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        with np.errstate(invalid="ignore"):  # where no text has a word, their mean length is 0
            words = [list(text_words(text, language)) for text in texts]
            self._index.index(words, create_empty_token=False, show_progress=False)
        self._weights = rarity(np.diff(self._index.scores["indptr"]), len(texts))
        self._absent = float(rarity(np.zeros(1), len(texts))[0])
        self._size = len(texts)

    def shares(self, query: str) -> Floats:
        """For each text, its BM25 score over the score of an endless text of nothing but the query: 0 to 1."""
        vocabulary = self._index.vocab_dict
        words = query_words(query, self._language)
        known = [vocabulary[word] for word in words if word in vocabulary]
        if not known:
            return np.zeros(self._size, np.float32)
        bound = self._weights[known].sum() + self._absent * (len(words) - len(known))
        scores: Floats = self._index.get_scores_from_ids(known)
        return scores / np.float32(bound)


def rarity(held: NDArray[np.float64], texts: int) -> NDArray[np.float64]:
    """What a word, or a token, weighs that so many of the texts have."""
    return np.log1p((texts - held + 0.5) / (held + 0.5))
