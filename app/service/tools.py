"""A collection's models, and whether they are those that its vectors come from."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import orjson

from app.errors import EncoderMismatch, Fault, Invalid
from app.stages.chunk import Chunker
from app.stages.embed import Embedder
from app.stages.rerank import Ranker
from app.stages.weigh import Weigher
from app.types import Collection, Recipe
from models.folder import Kind, title
from models.types import BiEncoder, SparseEncoder


@dataclass(frozen=True, slots=True)
class Tools:
    """A collection's models, and what cuts its documents for them."""

    embedder: Embedder
    ranker: Ranker
    weigher: Weigher | None
    chunker: Chunker


def fingerprint(encoder: BiEncoder | SparseEncoder, recipe: Recipe) -> str:
    """Hash of all that shapes a collection's vectors: two collections with the same one can share them."""
    return hashlib.sha256(orjson.dumps([encoder.fingerprint, asdict(recipe)])).hexdigest()


def late_mark(encoder: BiEncoder, wanted: bool | None, usual: bool) -> str:
    """What stands for the vectors of tokens that a new collection's chunks get; nothing where they get none."""
    if wanted and encoder.late is None:
        detail = (
            f"asks for vectors of tokens, and the encoder '{encoder.name}' makes none: leave it out, or name a model"
        )
        raise Invalid(
            "There is nothing to compare token by token.", [Fault("/late", f"{detail} that `winnow train late` made")]
        )
    return encoder.late.fingerprint if encoder.late and (usual if wanted is None else wanted) else ""


def check_sparse(collection: Collection, asked: str) -> None:
    """Refuse to begin with sparse vectors, or to leave them out, where documents are there already."""
    if bool(collection.sparse) == bool(asked):
        return
    has, names, again = (
        (f"has sparse vectors of '{collection.sparse}'", "no sparse encoder", f"with WINNOW_SPARSE={collection.sparse}")
        if collection.sparse
        else ("has no sparse vectors", f"'{asked}' to make some", "without WINNOW_SPARSE")
    )
    raise EncoderMismatch(
        f"Collection '{collection.name}' {has}, and the settings name {names}. Start {again}, and "
        f"make its documents ready for the change there (POST /collections/{collection.name}/standby), or drop it."
    )


def check_fingerprints(collection: Collection, tools: Tools) -> None:
    """Refuse models that make other vectors than those that are there."""
    encoder = tools.embedder.encoder
    _check_fingerprint(collection, "encoder", collection.encoder, collection.fingerprint, encoder)
    if collection.late and collection.late != (encoder.late.fingerprint if encoder.late else ""):
        raise EncoderMismatch(
            f"Collection '{collection.name}' holds vectors of tokens that '{encoder.name}' makes no more, or makes in "
            "another way: its folder `late` was changed. Start with the former one, and make its documents ready for "
            f"the change (POST /collections/{collection.name}/standby), or drop it."
        )
    if tools.weigher:
        mark = collection.sparse_fingerprint
        _check_fingerprint(collection, "sparse", collection.sparse, mark, tools.weigher.encoder)


def _check_fingerprint(
    collection: Collection, kind: Kind, name: str, mark: str, encoder: BiEncoder | SparseEncoder
) -> None:
    found = fingerprint(encoder, collection.recipe)
    if found != mark:
        raise EncoderMismatch(
            f"Collection '{collection.name}' holds vectors of the {title(kind)} '{name}' (fingerprint "
            f"{mark[:12]}), but '{encoder.name}' makes vectors of another kind (fingerprint {found[:12]}). Vectors of "
            f"two models can't be compared. Start with WINNOW_{kind.upper()}={name} and the same files and "
            f"prompts, and make its documents ready for other models (POST /collections/{collection.name}/standby), "
            "or drop it."
        )
