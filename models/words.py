"""A text's words, as lexical search counts them: lower case, cut down to their stems, without accents.

Numbers and letters make words, so that `get_user_name` is three, and `getUserName` is itself and the same three. Of
scripts that put no space between words every character is one. Stop words are part of a text and left out of a query,
unless it has no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args
from unicodedata import normalize

from tantivy import Filter, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

Language = Literal[
    "none", "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
    "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
]  # fmt: skip
"""Whose stems and stop words: `none` takes words as they are, accents and all."""

RULES = 3
"""Raised when the same text gives other words than before: indexes are then built anew."""

LANGUAGES: tuple[Language, ...] = get_args(Language)

WITHOUT_STOP_WORDS = frozenset({"none", "arabic", "greek", "romanian", "tamil", "turkish"})
"""The library has a stemmer for them and no list."""

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[{UNSPACED}]|[\p{{L}}\p{{M}}\p{{N}}&&[^{UNSPACED}]]+"

JOINED = re.compile(r"[^\W_]+")
HUMP = re.compile(r"[A-Z](?:(?<=[a-z0-9].)|(?<=[A-Z].)(?=[a-z]))")
"""The letter that begins a further word of a name that is written together: `parseHTTPHeader` has two."""

LONGEST = 60
"""Bytes of a word; what is longer is no word that anybody looks for."""


@lru_cache(maxsize=2 * len(LANGUAGES))
def analyzer(language: Language, *, stop_words: bool = True) -> TextAnalyzer:
    """What makes words of texts that were respelled; with or without those that say nothing."""
    words = TextAnalyzerBuilder(Tokenizer.regex(WORD)).filter(Filter.remove_long(LONGEST)).filter(Filter.lowercase())
    if language == "none":
        return words.build()
    if not stop_words and language not in WITHOUT_STOP_WORDS:
        words = words.filter(Filter.stopword(language))
    return words.filter(Filter.stemmer(language)).filter(Filter.ascii_fold()).build()


def respelled(text: str) -> str:
    """Letters of one form and width, and no hyphens that nobody sees: files from a Mac or in PDF have their own. Names
    that are written together are followed by their words."""
    plain = normalize("NFKC", text).replace("\N{SOFT HYPHEN}", "")
    plain = plain.replace("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "I")
    return JOINED.sub(_with_words, plain) if HUMP.search(plain) else plain


def _with_words(joined: re.Match[str]) -> str:
    name = joined[0]
    apart = HUMP.sub(r" \g<0>", name) if name.isascii() else name
    return name if apart == name else f"{name} {apart}"


def text_words(text: str, language: Language) -> Sequence[str]:
    """All words of a text, in order."""
    return analyzer(language).analyze(respelled(text))


def query_words(query: str, language: Language) -> Sequence[str]:
    """The words to look for."""
    return analyzer(language, stop_words=False).analyze(respelled(query)) or text_words(query, language)
