"""From a model's answer to questions worth keeping: strict parsing, and rules that say why a question is dropped."""

from __future__ import annotations

import re
from typing import Any

import orjson

from models.synthesis.types import Question
from models.training.pairs import Passage

FEWEST_WORDS, MOST_WORDS = 2, 60
COPIED_WORDS, COPIED_SHARE = 8, 0.7
"""So many words in a row, if they are that share of the question, make it a copy of the passage."""

SHORT, LONG, COPIED, POINTING = "too short", "too long", "copied from the passage", "speaking of the passage"

# Scripts that put no spaces between words: there every character counts as one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_NOUN = "passage|text|document|article|paragraph|excerpt|snippet|author"
_REPORTED = re.compile(
    rf"\b(?:according to|based on|mentioned in|described in|stated in|discussed in|as per) (?:the|this|that)"
    rf" (?:given |above |provided )?(?:{_NOUN})\b"
    rf"|\b(?:laut|gemäß) (?:dem|diesem) (?:text|abschnitt|artikel|dokument)\b"
    rf"|\b(?:selon|d.après) (?:le|ce|cet) (?:texte|passage|article|document)\b"
    rf"|\bsegún (?:el|este) (?:texto|pasaje|artículo|documento)\b",
    re.IGNORECASE,
)
_POINTED = re.compile(
    rf"\b(?:the|this|that|given|above|provided|following) ({_NOUN})\b"
    r"|\b(?:im|in diesem|dieser|dieses) (text|abschnitt|artikel|dokument)\b"
    r"|\b(?:dans le|dans ce|ce|cet) (texte|passage|article|document)\b"
    r"|\b(?:en el|este) (texto|pasaje|artículo|documento)\b",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```\w*\s*\n(.*?)```", re.DOTALL)
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


class Malformed(Exception):
    """An answer that is not what was asked for; asking again may help."""


def parse(answer: str) -> tuple[Question, ...]:
    """The questions of an answer: an object with a list, or the list itself, perhaps in a code fence."""
    try:
        found = orjson.loads(_bare(answer))
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the answer is not JSON ({error}): {answer[:80]!r}") from error
    listed = found.get("questions") if isinstance(found, dict) else found
    if not isinstance(listed, list):
        raise Malformed(f"the answer has no list of questions: {answer[:80]!r}")
    return tuple(_question(item) for item in listed)


def fault(query: str, passage: Passage) -> str | None:
    """The rule that a question breaks, if any."""
    words = spoken(query)
    if len(words) < FEWEST_WORDS:
        return SHORT
    if len(words) > MOST_WORDS:
        return LONG
    if _points(query, passage):
        return POINTING
    return COPIED if _copies(words, spoken(passage.text)) else None


def spoken(text: str) -> list[str]:
    """The words of a text, as they sound: without case and punctuation."""
    return _WORD.findall(text.casefold())


def _points(query: str, passage: Passage) -> bool:
    """Whether it speaks of the passage; what a passage is itself about, as a manual is of documents, may be asked."""
    if _REPORTED.search(query):
        return True
    own = spoken(passage.titled)
    nouns = [next(filter(None, found.groups())).casefold() for found in _POINTED.finditer(query)]
    return any(noun not in own for noun in nouns)


def _copies(words: list[str], passage: list[str]) -> bool:
    size = max(COPIED_WORDS, round(COPIED_SHARE * len(words)))
    text = f" {' '.join(passage)} "
    return any(f" {' '.join(words[at : at + size])} " in text for at in range(len(words) - size + 1))


def _bare(answer: str) -> str:
    spoken_only = _THOUGHTS.sub("", answer)
    fenced = _FENCE.search(spoken_only)
    return fenced[1] if fenced else spoken_only


def _question(item: Any) -> Question:
    query = item.get("query", item.get("question")) if isinstance(item, dict) else item
    style = item.get("style", "") if isinstance(item, dict) else ""
    if not isinstance(query, str) or not isinstance(style, str):
        raise Malformed(f"a question is no text: {str(item)[:80]!r}")
    return Question(" ".join(query.split()).strip('"“”„ '), style.strip().casefold())
