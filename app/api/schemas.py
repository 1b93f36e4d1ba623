"""What goes over the wire. Shapes only: limits that are settings are checked in api/checks.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

COLLECTION_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Part = Literal["text", "title", "metadata", "stages"]

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


class SearchBody(Body):
    query: str = Field(examples=["how long can a filter be used"])
    collection: str = "default"
    top_k: int = Field(10, ge=1, description="Hits to return.")
    candidates: int = Field(50, ge=1, description="Candidates to rerank; never fewer than top_k.")
    filter: dict[str, Any] | None = Field(None, examples=[{"year": {"$gte": 2020}}])
    rerank: bool = True
    exact: bool = Field(False, description="Compare with every vector instead of asking the graph.")
    min_score: float | None = Field(None, allow_inf_nan=False, description="Leave out hits that score less.")
    include: list[Part] = Field(
        ["text", "title", "metadata", "stages"], fail_fast=True, description="What hits carry beside ids."
    )


class DocumentBody(Body):
    id: str | None = Field(None, description="The caller's own; a missing id becomes a hash of the content.")
    text: str
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class Envelope(Body):
    """An ingest whose documents are still to be looked at, one by one so that others get a turn in between."""

    documents: list[Any] = Field(min_length=1)
    collection: str = "default"
    wait: bool = Field(True, description="Answer when the documents can be found; otherwise at once, with a job.")


class IngestBody(Envelope):
    documents: list[DocumentBody] = Field(min_length=1)


class DeleteBody(Body):
    ids: list[str] | None = Field(None, fail_fast=True)
    filter: dict[str, Any] | None = None
    collection: str = "default"


class RecipeBody(Body):
    chunk_tokens: int | None = Field(None, ge=16)
    overlap_tokens: int | None = Field(None, ge=0)
    title: Literal["first", "every", "never"] | None = None


class CollectionBody(Body):
    name: str = Field(pattern=COLLECTION_NAME)
    encoder: str | None = Field(None, description="`embedded`, a folder, or a hub name; by default the setting's.")
    reranker: str | None = None
    recipe: RecipeBody = RecipeBody()


class StageReply(BaseModel):
    score: float
    rank: int


class HitReply(BaseModel):
    id: str = Field(description="The chunk's own id.")
    document_id: str
    score: float
    start: int = Field(description="Where the chunk begins in the document's text, in characters.")
    end: int
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    stages: dict[str, StageReply] | None = None


class Milliseconds(BaseModel):
    queue: float = Field(description="Waiting for the model.")
    compute: float


class ModelsReply(BaseModel):
    encoder: str
    reranker: str | None


class IndexReply(BaseModel):
    fingerprint: str
    sequence: int = Field(description="The last change that this answer's index had seen.")


class SearchReply(BaseModel):
    collection: str
    hits: list[HitReply]
    candidates: int = Field(description="Living chunks that the first stage proposed.")
    reranked: int
    truncated: dict[str, int] = Field(description="Of how many texts each model saw only a part.")
    timings: dict[str, Milliseconds]
    total_ms: float
    models: ModelsReply
    index: IndexReply


class PutReply(BaseModel):
    id: str
    status: Literal["created", "replaced", "updated", "unchanged"]
    chunks: int


class IngestReply(BaseModel):
    job: str
    collection: str
    searchable: bool
    documents: list[PutReply]


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


class DocumentReply(BaseModel):
    id: str
    collection: str
    text: str
    title: str
    metadata: dict[str, Any]
    state: Literal["live", "pending", "failed"]
    error: str | None
    chunks: list[ChunkReply]
    created_at: str


class DeleteReply(BaseModel):
    deleted: list[str]


class RecipeReply(BaseModel):
    chunk_tokens: int
    overlap_tokens: int
    title: Literal["first", "every", "never"]


class CollectionReply(BaseModel):
    name: str
    encoder: str
    reranker: str
    recipe: RecipeReply
    dimensions: int
    fingerprint: str
    created_at: str
    documents: int
    pending: int = Field(description="Documents acknowledged and not yet searchable.")
    failed: int
    chunks: int
    bytes: int = Field(description="Of titles, texts and metadata, in UTF-8.")
    index_chunks: int
    index_bytes: int
    sequence: int
    trouble: str | None = Field(description="Why the collection does not answer or take in documents, if it does not.")


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
