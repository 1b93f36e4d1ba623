"""BM25 over texts, as the share of a query's weight that a text carries."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Lexicon:
    """English words, stemmed, without stop words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        tokens = bm25s.tokenize(list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False)
        self._vocabulary: dict[str, int] = tokens.vocab
        self._index = bm25s.BM25()
        self._index.index(tokens, show_progress=False)
        self._weights = _weights(tokens.ids, len(self._vocabulary))
        self._size = len(texts)
        self._absent = np.log1p(2 * self._size + 1)  # what a word weighs that no text has

    def shares(self, query: str) -> Floats:
        """For each text, its BM25 score over the score of an endless text of nothing but the query: 0 to 1."""
        words = bm25s.tokenize([query], stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False)[0]
        known = [self._vocabulary[word] for word in words if word in self._vocabulary]
        if not known:
            return np.zeros(self._size, np.float32)
        bound = self._weights[known].sum() + self._absent * (len(words) - len(known))
        scores: Floats = self._index.get_scores_from_ids(known)
        return scores / np.float32(bound)


def _weights(texts: Sequence[Sequence[int]], words: int) -> Floats:
    counts = np.zeros(words, np.int64)
    for ids in texts:
        counts[np.unique(np.asarray(ids, np.int64))] += 1
    return np.log1p((len(texts) - counts + 0.5) / (counts + 0.5)).astype(np.float32)
