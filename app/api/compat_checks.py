"""What is wrong with the texts that other services' clients send, and what becomes of those that are too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from app.errors import Fault, Invalid, NotFound
from app.service.scoring import TooLong, is_length
from app.settings import Settings
from app.types import Truncation
from models.types import BiEncoder

TOKEN_IDS = (
    "is made of token ids, which mean nothing to another model: send texts (in LangChain's OpenAIEmbeddings by "
    "check_embedding_ctx_length=False)"
)


def check_model(asked: str | None, served: str) -> None:
    """Another model's numbers would be taken for those of the one that was asked for."""
    if asked not in (None, served):
        raise NotFound(f"There is no model '{asked}' for this: leave model out, or say '{served}'. See GET /v1/models.")


def check_length(asked: int | None, encoder: BiEncoder) -> None:
    if asked is not None and not is_length(encoder, asked):
        detail = (
            "is none of the lengths that the encoder was trained for, as far as that is known: "
            f"leave it out for all {encoder.dimensions} numbers"
        )
        raise Invalid("Vectors can't be cut to that length.", [Fault("/dimensions", detail)])


def texts_to_rank(query: str, given: Sequence[Any], name: str, settings: Settings) -> list[str]:
    """A text among several may be empty; the query may not."""
    if len(query) > settings.max_query_chars:
        query_faults = [Fault("/query", f"is {len(query)} characters; at most {settings.max_query_chars} are allowed")]
    else:
        query_faults = [] if query.strip() else [Fault("/query", "is empty: send some text")]
    texts = [each["text"] if _is_wrapped(each) else each for each in given] if name == "documents" else list(given)
    return _sound(texts, [*query_faults, *_faults(texts, name, settings.max_candidates, settings)])


def texts_to_embed(given: Sequence[Any], name: str, settings: Settings) -> list[str]:
    faults = list(_faults(given, name, settings.max_documents, settings))
    blank = [] if faults else [place for place, text in enumerate(given) if not text.strip()]
    return _sound(list(given), faults + [Fault(f"/{name}/{place}", "is empty: leave it out") for place in blank])


def policy(truncate: bool | None, settings: Settings) -> Truncation:
    """As text-embeddings-inference has it: what does not say is left to the one who runs the service."""
    return "report" if (settings.auto_truncate if truncate is None else truncate) else "refuse"


def refusal(error: TooLong, name: str, advice: str) -> Invalid:
    """Each text that can't be read whole, and what else could be done with it."""
    faults = [
        Fault(f"/{name}/{place}", f"has {seen.total} tokens, of which the model reads {seen.scored}: {advice}")
        for place, seen in error.seen.items()
    ]
    return Invalid(f"The model can't read {len(faults)} of the texts whole.", faults)


def _sound(texts: list[Any], faults: list[Fault]) -> list[str]:
    if faults:
        raise Invalid(f"{len(faults)} part(s) of the request are wrong.", faults)
    return texts


def _is_wrapped(given: Any) -> bool:
    return isinstance(given, dict) and given.keys() == {"text"}


def _faults(texts: Sequence[Any], name: str, most: int, settings: Settings) -> Iterator[Fault]:
    if len(texts) > most:
        yield Fault(f"/{name}", f"holds {len(texts)} texts; at most {most} at once: send several requests")
    elif isinstance(texts[0], int | list):
        yield Fault(f"/{name}", TOKEN_IDS)
    else:
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                yield Fault(f"/{name}/{place}", "is not a text")
            elif len(text) > settings.max_text_chars:
                detail = f"is {len(text)} characters; at most {settings.max_text_chars} are allowed"
                yield Fault(f"/{name}/{place}", detail)
