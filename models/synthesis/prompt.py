"""What the chat model is told: a template, the styles of real queries, and examples from the user's own."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from models.synthesis.corpus import fingerprint
from models.synthesis.types import Unusable
from models.training.pairs import Passage

STYLES = {
    "keywords": "keywords: two to six words as typed into a search box, not a sentence",
    "question": "question: one full, well-formed question",
    "problem": "problem: a sentence that tells what somebody tries to do or what went wrong, to learn how",
    "colloquial": "colloquial: as asked in a chat, casual and short, small letters and loose grammar allowed",
}

SHOWN_EXAMPLES = 5
"""Of the user's queries so many are shown with each passage, others with the next."""

FORMAT = 'Answer with JSON and nothing else, in this form: {"questions": [{"style": "…", "query": "…"}]}'

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"style": {"type": "string"}, "query": {"type": "string"}},
                "required": ["style", "query"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["questions"],
    "additionalProperties": False,
}

_PLACEHOLDER = re.compile(r"\{(title|text|count|styles|examples)\}")
_DEFAULT = Path(__file__).with_name("prompt.txt")


@dataclass(frozen=True, slots=True)
class Prompt:
    """How a passage becomes a request."""

    template: str
    count: int = 2
    examples: tuple[str, ...] = ()
    longest: int = 8000
    """Characters of a passage that the model is shown."""

    def fill(self, passage: Passage) -> str:
        """The template with the passage in it; braces in the passage are left alone."""
        values = {
            "title": passage.title,
            "text": passage.text[: self.longest],
            "count": str(self.count),
            "styles": "\n".join(f"{n}. {STYLES[style]}" for n, style in enumerate(self.styles(passage), 1)),
            "examples": self._shown(passage),
        }
        filled = _PLACEHOLDER.sub(lambda found: values[found[1]], self.template)
        return re.sub(r"\n{3,}", "\n\n", filled).strip() + f"\n\n{FORMAT}"

    def styles(self, passage: Passage) -> list[str]:
        """One for each question, beginning elsewhere for each passage, so that all are as frequent."""
        names, first = list(STYLES), int(fingerprint(passage), 16)
        return [names[(first + at) % len(names)] for at in range(self.count)]

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes the questions."""
        parts = (self.template, FORMAT, *STYLES.values(), *self.examples)
        return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    def _shown(self, passage: Passage) -> str:
        if not self.examples:
            return ""
        few = random.Random(fingerprint(passage)).sample(self.examples, min(SHOWN_EXAMPLES, len(self.examples)))
        head = "Queries that people typed into this search before. Write in their manner, about this passage instead:"
        return "\n".join([head, *(f"- {query}" for query in few)])


def read_template(path: Path | None, examples: Sequence[str]) -> str:
    """The user's own template or the one that comes with Winnow."""
    template = read_file(path or _DEFAULT)
    placeholders = {found[1] for found in _PLACEHOLDER.finditer(template)}
    if "text" not in placeholders:
        raise Unusable(f"{path} has no {{text}}: write it where the passage belongs.")
    if examples and "examples" not in placeholders:
        raise Unusable(f"{path} has no {{examples}}: write it where the examples belong, or leave --examples out.")
    return template


def read_examples(path: Path | None) -> tuple[str, ...]:
    """The user's queries, one a line, each once."""
    if path is None:
        return ()
    queries = dict.fromkeys(line.strip() for line in read_file(path).splitlines() if line.strip())
    if not queries:
        raise Unusable(f"{path} is empty: write queries of your users into it, one a line.")
    return tuple(queries)


def read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} can't be read as UTF-8 text: {error}.") from error
