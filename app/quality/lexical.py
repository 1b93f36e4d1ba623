"""BM25 over chunks: the lexical first stage, and how much of a query's words a chunk has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.quality.dense import best
from app.types import Candidates

K1, B = 1.5, 0.75
METHOD = "lucene"
"""Its term weights have idf for an upper bound, which makes the share below a share."""

NONE = "none"
LANGUAGES = (
    NONE, "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese", "russian",
    "spanish", "swedish", "turkish",
)  # fmt: skip
"""Those with both stop words and a stemmer."""

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Terms:
    """A query's words, as far as any chunk has them."""

    known: list[int]
    bound: float
    """What a chunk would score that is made of nothing but the query, without end."""


class Lexicon:
    """The words of all chunks, weighed."""

    def __init__(self, texts: Sequence[str], language: str) -> None:
        import bm25s

        self._language = language
        self._chunks = len(texts)
        self._index = bm25s.BM25(method=METHOD, k1=K1, b=B)
        with np.errstate(invalid="ignore"):  # where no text has a word, their mean length is 0
            self._index.index(_words(texts, language), create_empty_token=False, show_progress=False)
        held = np.diff(self._index.scores["indptr"])
        self._idf = _idf(held, len(texts))
        self._unheard = float(_idf(np.zeros(1), len(texts))[0])

    def terms(self, query: str) -> Terms:
        (words,) = _words([query], self._language)
        known = [int(self._index.vocab_dict[word]) for word in words if word in self._index.vocab_dict]
        absent = sum(word not in self._index.vocab_dict for word in words)
        return Terms(known, float(self._idf[known].sum()) + self._unheard * absent)

    def scores(self, terms: Terms) -> Scores:
        """BM25 of every chunk."""
        if not terms.known:
            return np.zeros(self._chunks, np.float32)
        found: Scores = self._index.get_scores_from_ids(terms.known)
        return found


def shares(terms: Terms, scores: Scores) -> Scores:
    """BM25 as a share of what the query's words could give at most, in 0 to 1: the lexical feature of any chunk.
    A word that no chunk has counts as well, since what is missing of a query makes the rest of it say less."""
    return np.asarray(scores / max(terms.bound, 1e-9), np.float32)


def search(scores: Scores, depth: int) -> Candidates:
    """The best chunks, of those that have any of the words."""
    found = best(scores, depth)
    some = found.scores > 0
    return Candidates(found.chunks[some], found.scores[some])


def _idf(held: NDArray[Any], chunks: int) -> NDArray[np.float64]:
    """What a word weighs that so many of the chunks have."""
    return np.log1p((chunks - held + 0.5) / (held + 0.5))


def _words(texts: Sequence[str], language: str) -> Any:
    """Each text's words, without stop words and cut down to their stems."""
    import bm25s
    import Stemmer

    plain = language == NONE
    return bm25s.tokenize(
        list(texts),
        stopwords=None if plain else language,
        stemmer=None if plain else Stemmer.Stemmer(language),
        return_ids=False,
        show_progress=False,
    )
