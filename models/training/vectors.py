"""Embeds many texts in blocks that are kept on disk, so that an interrupted run need not embed them again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from models.training.watch import Watch
from models.types import Role

Floats = NDArray[np.float32]

BATCH = 64
BLOCK = 32 * BATCH
"""Texts to a file: a minute or so of one core's work."""

LONGEST_NAME = 200
"""Bytes; file systems end at 255."""


class VectorFiles:
    """The vectors of one encoder in one folder."""

    def __init__(self, encoder: SentenceTransformer, folder: Path, watch: Watch) -> None:
        self._encoder = encoder
        self._folder = folder
        self._watch = watch

    def embed(self, name: str, texts: Sequence[str], role: Role) -> Floats:
        """A unit vector for each text, computed unless a file of that name holds it."""
        self._folder.mkdir(exist_ok=True)
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))  # little padding within a block
        blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
        vectors = np.zeros((len(texts), self._encoder.get_embedding_dimension() or 0), np.float32)
        for number, block in enumerate(blocks):
            vectors[block] = self._block(self._file(name, number), [texts[at] for at in block], role)
            self._watch.advance(f"embedding {name}", min((number + 1) * BLOCK, len(texts)), len(texts))
        return vectors

    def _file(self, name: str, number: int) -> Path:
        quoted = quote(name, safe="")
        told = quoted if len(quoted) <= LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()
        return self._folder / f"{told}-{number}.npy"

    def _block(self, file: Path, texts: list[str], role: Role) -> Floats:
        if not file.exists():
            encode = self._encoder.encode_query if role == "query" else self._encoder.encode_document
            vectors = encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
            with (new := file.with_suffix(".new")).open("wb") as stream:
                np.save(stream, vectors.astype(np.float32))
            new.rename(file)
        found: Floats = np.load(file)
        return found
