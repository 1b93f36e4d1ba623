"""The right answers: every passage compared, the nearest fifty scored, all in float32 by sentence-transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loadtest.lineup import CANDIDATES, TOP
from loadtest.passages import Passage
from loadtest.plain import ENCODER, RERANKER, WEIGHTS


def right_answers(passages: Sequence[Passage], questions: Sequence[str], kept: Path) -> dict[str, list[str]]:
    """Computed once for the same models, passages and questions."""
    file = kept / f"{_digest(passages, questions)}.json"
    if not file.exists():
        kept.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_compute(passages, questions)))
    answers: dict[str, list[str]] = json.loads(file.read_text())
    return answers


def _digest(passages: Sequence[Passage], questions: Sequence[str]) -> str:
    asked = json.dumps([[asdict(passage) for passage in passages], list(questions), TOP, CANDIDATES])
    digest = hashlib.sha256(asked.encode())
    for file in sorted(WEIGHTS.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _compute(passages: Sequence[Passage], questions: Sequence[str]) -> dict[str, list[str]]:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    encoder = SentenceTransformer(str(ENCODER), device="cpu")
    reranker = CrossEncoder(str(RERANKER), device="cpu")
    vectors = encoder.encode([passage.text for passage in passages], normalize_embeddings=True)
    cosines = encoder.encode(list(questions), normalize_embeddings=True) @ vectors.T
    answers = {}
    for question, row in zip(questions, cosines, strict=True):
        nearest = [passages[n] for n in (-row).argsort(kind="stable")[:CANDIDATES]]
        scores = reranker.predict([(question, passage.text) for passage in nearest], batch_size=8)
        answers[question] = [nearest[n].id for n in (-scores).argsort(kind="stable")[:TOP]]
    return answers
