"""A dataset's documents as the chunks that a service would make of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from inspect import getsource

import numpy as np
import orjson

from app.errors import InvalidDocuments
from app.quality.cache import key
from app.quality.types import Dataset
from app.quality.workbench import Workbench
from app.stages import chunk, markdown
from app.stages.chunk import Chunker
from app.types import Candidates, ChunkIds, Document, Recipe
from models.types import BiEncoder, Reranker, SparseEncoder

SPLITTING = chunk, markdown
"""Where it is decided what a chunk is."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Chunks in the order of their documents."""

    documents: tuple[Document, ...]
    texts: list[str]
    """What the models read of each chunk."""
    owners: ChunkIds
    """The place of each chunk's document."""
    notes: tuple[str, ...] = ()

    def depth(self, documents: int) -> int:
        """So many chunks belong to at least so many documents, whichever chunks they are."""
        held = np.sort(np.bincount(self.owners, minlength=len(self.documents)))
        return int(held[::-1][: documents - 1].sum()) + 1

    def ranked(self, candidates: Candidates, documents: int) -> dict[str, float]:
        """The best documents with the scores of their best chunks."""
        owners = self.owners[candidates.chunks]
        _, first = np.unique(owners, return_index=True)
        places = np.sort(first)[:documents]
        return {self.documents[owners[place]].id: float(candidates.scores[place]) for place in places}


def split(
    dataset: Dataset,
    recipe: Recipe,
    encoder: BiEncoder,
    reranker: Reranker,
    sparse: SparseEncoder | None,
    bench: Workbench,
) -> Corpus:
    """As ingest splits, except that a title too long for a chunk becomes text, where ingest refuses the document."""
    chunker = Chunker(recipe, encoder, reranker, bench.query_reserve, sparse)
    marks = [encoder.fingerprint, reranker.fingerprint, *([sparse.fingerprint] if sparse else [])]
    known = _key(dataset.documents, recipe, marks, bench)
    kept = bench.cache.get([known]).get(known)
    made = _Split(**orjson.loads(zlib.decompress(kept))) if kept else _split(dataset, chunker, bench)
    if not kept:
        bench.cache.put({known: zlib.compress(orjson.dumps(made), 1)})
    owners = np.repeat(np.arange(len(made.chunks)), [len(each) for each in made.chunks]).astype(np.int64)
    note = f"{made.moved:,} documents have a title too long for a chunk: it is read as text. Ingest would refuse them."
    texts = [text for each in made.chunks for text in each]
    return Corpus(dataset.documents, texts, owners, (note,) if made.moved else ())


@dataclass(slots=True)
class _Split:
    """The chunks of each document, and of how many documents the title was moved into the text."""

    chunks: list[list[str]]
    moved: int = 0


def _split(dataset: Dataset, chunker: Chunker, bench: Workbench) -> _Split:
    made = _Split([])
    with bench.track(f"{dataset.name}: chunk", len(dataset.documents)) as advance:
        for document in dataset.documents:
            try:
                chunks = chunker.split(document)
            except InvalidDocuments:
                chunks = chunker.split(Document(document.id, f"{document.title}\n{document.text}"))
                made.moved += 1
            made.chunks.append([each.text for each in chunks])
            advance(1)
    return made


def _key(documents: Sequence[Document], recipe: Recipe, marks: Sequence[str], bench: Workbench) -> bytes:
    """The code that splits counts as it stands: nobody has to remember that what it made before is no more its work."""
    code = *map(getsource, SPLITTING), version("semantic-text-splitter")
    content = (part for document in documents for part in (document.title, document.text))
    return key("chunks", *code, *marks, bench.query_reserve, recipe, *content)
