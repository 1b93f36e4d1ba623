"""What goes over the wire. Shapes only: limits that are settings are checked in api/checks.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from app.types import Format, Mode, Place
from models.words import Language

COLLECTION_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"

SOME_TEXT: JsonDict = {"pattern": r"\S"}
"""Says of a string that it may not be blank; api/checks.py sees to it, together with all else that is wrong."""

MOST_FIELDS = 32
"""Every unknown field is named, which takes 5 µs each and nobody else gets a turn meanwhile: millions are not."""


class Body(BaseModel):
    """Something that a caller sends: unknown fields and wrong types are refused, never guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > MOST_FIELDS:
            raise PydanticCustomError(
                "too_many_fields", "has {amount} fields: remove unknown ones", {"amount": len(given)}
            )
        return given


class DocumentBody(Body):
    id: str | None = Field(None, description="The caller's own; a missing id becomes a hash of the content.")
    text: str = Field(json_schema_extra=SOME_TEXT, description="What is cut into chunks and found.")
    title: str = Field("", description="Stands in front of chunks as the collection's recipe has it; hits carry it.")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="For filters, and for hits to carry; `date` and `supersedes` mean something."
    )
    format: Format = Field("plain", description="`markdown` is cut along its headings, tables, lists and code.")


class Envelope(Body):
    """An ingest whose documents are still to be looked at, one by one so that others get a turn in between."""

    documents: list[Any] = Field(min_length=1)
    collection: str = Field("default", description="Which takes them in.")
    wait: bool = Field(True, description="Answer when the documents can be found; otherwise at once, with a job.")


class IngestBody(Envelope):
    documents: list[DocumentBody] = Field(min_length=1, description="All of them are taken in, or none.")


class ChoiceBody(Body):
    ids: list[str] | None = Field(None, fail_fast=True, description="Of the documents that are meant; or `filter`.")
    filter: dict[str, Any] | None = Field(
        None, description="As in a search, in place of `ids`; an empty one is refused."
    )
    collection: str = Field("default", description="Which has them.")


CHANGES = "Put in the place of what stands there; null takes a key away, and objects are gone into."


class ChangeBody(Body):
    metadata: dict[str, Any] = Field(description=CHANGES)


class UpdateBody(ChoiceBody):
    metadata: dict[str, Any] = Field(description=CHANGES)


class ListBody(Body):
    collection: str = Field("default", description="Whose documents.")
    filter: dict[str, Any] | None = Field(None, description="As in a search; by default every document.")
    after: str | None = Field(None, pattern=r"^\d{1,18}$", description="`next` of the answer before; by default none.")
    limit: int = Field(100, ge=1, le=1000, description="Documents in one answer; fewer where their texts are long.")
    text: bool = Field(False, description="Whether the answer has their texts.")


class RecipeBody(Body):
    chunk_tokens: int | None = Field(None, ge=16, description="Longest chunk, in the encoder's tokens.")
    overlap_tokens: int | None = Field(None, ge=0, description="Tokens that neighbouring chunks share.")
    title: Literal["first", "every", "never"] | None = Field(None, description="Which chunks get it in front.")


class CollectionBody(Body):
    name: str = Field(
        pattern=COLLECTION_NAME, description="Up to 64 of a-z, 0-9, _ and -, not beginning with one of the latter two."
    )
    encoder: str | None = Field(None, description="`embedded`, a folder, or a hub name; by default the setting's.")
    reranker: str | None = Field(None, description="Likewise; by default the setting's.")
    sparse: str | None = Field(
        None, description="A sparse encoder: a folder or a hub name; empty for none; by default the setting's."
    )
    late: bool | None = Field(
        None, description="Whether to keep vectors of tokens with each chunk; by default the setting's."
    )
    recipe: RecipeBody = Field(RecipeBody(), description="How documents become chunks.")
    language: Language | None = Field(None, description="Whose stems and stop words lexical search takes.")


class StandbyBody(Body):
    """What is not said is as the collection has it, or where that is told as the setting has it."""

    encoder: str | None = Field(None, description="`embedded`, a folder, or a hub name.")
    reranker: str | None = Field(None, description="Likewise.")
    sparse: str | None = Field(None, description="A sparse encoder: a folder or a hub name; empty for none.")
    late: bool | None = Field(
        None, description="Whether to keep vectors of tokens with each chunk; by default the setting's."
    )
    recipe: RecipeBody = Field(RecipeBody(), description="How documents become chunks.")
    language: Language | None = Field(None, description="Whose stems and stop words lexical search takes.")


class SwitchBody(Body):
    force: bool = Field(False, description="Switch although the standby can't take some of the documents.")


class PutReply(BaseModel):
    id: str
    status: Literal["created", "replaced", "updated", "unchanged"]
    chunks: int


class IngestReply(BaseModel):
    job: str
    collection: str
    searchable: bool
    documents: list[PutReply]


class FileReply(BaseModel):
    path: str
    id: str | None = Field(None, description="The document that it became; a JSONL file becomes many.")
    status: Literal["created", "replaced", "updated", "unchanged", "failed"]
    reason: str | None = Field(None, description="Why it failed, or what of a JSONL file was refused.")
    chunks: int | None = None
    pages: int | None = None
    documents: dict[str, int] | None = Field(
        None, description="Of a JSONL file: how many lines became what; `failed`: those of them that can't be embedded."
    )
    refused: int | None = Field(None, description="Of a JSONL file: lines that no document could be made of.")


class FilesReply(BaseModel):
    job: str | None
    collection: str
    searchable: bool
    files: list[FileReply]


class KnownFile(Body):
    path: str = Field(description="The name that it would be sent by.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of its content.")


class KnownBody(Body):
    files: list[KnownFile] = Field(fail_fast=True, description="Which would be sent.")
    collection: str = Field("default", description="Which would take them in.")


class RefusedReply(BaseModel):
    path: str
    reason: str


class KnownReply(BaseModel):
    known: list[str]
    refused: list[RefusedReply] = Field(description="Could not be read before; nothing that matters has changed since.")


class JobReply(BaseModel):
    id: str
    collection: str
    state: Literal["running", "done", "failed"]
    documents: int
    searchable: int
    pending: int
    failed: int
    error: str | None
    created_at: str


class ChunkReply(BaseModel):
    id: str
    start: int
    end: int
    tokens: int
    page: int | None = None
    last_page: int | None = None
    heading: str | None = None


class DocumentReply(BaseModel):
    id: str
    collection: str
    text: str
    title: str
    metadata: dict[str, Any]
    format: Format
    pages: list[int] = Field(description="Where each page begins in the text; empty where there are none.")
    state: Literal["live", "pending", "failed"]
    error: str | None
    chunks: list[ChunkReply]
    created_at: str


class ListedReply(BaseModel):
    id: str
    title: str
    metadata: dict[str, Any]
    state: Literal["live", "pending", "failed"]
    error: str | None
    chunks: int
    created_at: str
    text: str | None = Field(None, description="Where it was asked for.")


class ListReply(BaseModel):
    documents: list[ListedReply] = Field(description="The newest version of each, in the order they were taken in.")
    next: str | None = Field(description="What to send as `after` for those that follow; null: there are none.")


class DeleteReply(BaseModel):
    deleted: list[str]


class UpdateReply(BaseModel):
    updated: list[str]
    unchanged: list[str] = Field(description="Those of which all that was true before.")


class RecipeReply(BaseModel):
    chunk_tokens: int
    overlap_tokens: int
    title: Literal["first", "every", "never"]


class CalibratedReply(BaseModel):
    mode: Mode
    rerank: bool = Field(description="Whether searches that do not say are reranked.")
    advice: str = Field(description="Why not.")
    trouble: str | None = Field(description="Why the calibration does not hold any more, if it does not.")


class StandbyReply(BaseModel):
    name: str
    behind: int = Field(description="Documents that it has yet to take over.")
    pending: int = Field(description="Documents that it has taken over, and that can't be found in it yet.")
    failed: int = Field(description="Documents of the collection that it can't take.")


class CollectionReply(BaseModel):
    name: str
    follows: str | None = Field(description="The collection whose standby it is.")
    standby: StandbyReply | None = Field(description="What is made ready to take its place.")
    encoder: str
    reranker: str
    sparse: str | None = Field(description="The sparse encoder, where the collection has one.")
    late: bool = Field(description="Whether its chunks have vectors of their tokens.")
    recipe: RecipeReply
    language: Language
    dimensions: int
    fingerprint: str
    sparse_fingerprint: str | None
    created_at: str
    documents: int
    pending: int = Field(description="Documents acknowledged and not yet searchable.")
    failed: int
    chunks: int
    bytes: int = Field(description="Of titles, texts and metadata, in UTF-8.")
    index_chunks: int = Field(description="Chunks in the index of vectors.")
    lexical_chunks: int = Field(description="Chunks in the index of words.")
    sparse_chunks: int = Field(description="Chunks in the index of sparse vectors.")
    index_bytes: int
    index_dimensions: int = Field(description="Numbers of each vector that the graph compares.")
    index_ef: int = Field(description="Effort of searches by graph: as set, or as tuned since; 0 while closed.")
    sparse_bytes: int = Field(description="Memory of the index of sparse vectors.")
    sequence: int
    trouble: str | None = Field(description="Why the collection does not answer or take in documents, if it does not.")
    calibrations: list[CalibratedReply] = Field(description="Modes whose scores labels have told about.")


class CollectionsReply(BaseModel):
    collections: list[CollectionReply]


class FaultReply(BaseModel):
    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[FaultReply] | None = None
    message: str | None = Field(None, description="In place of other services: all of it in a sentence.")


def told(place: Place) -> dict[str, Any]:
    """What there is to say of a chunk's place; nothing for a plain document."""
    last = place.last_page if place.last_page != place.page else None
    said = {"page": place.page, "last_page": last, "heading": place.heading or None}
    return {name: value for name, value in said.items() if value is not None}
