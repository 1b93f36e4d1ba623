"""What goes over the wire. Shapes only: limits that are settings are checked in api/checks.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from app.types import Format, Fusing, Mode, Place, Truncation
from models.words import Language

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


class FusionBody(Body):
    by: Fusing | None = Field(None, description="By scores, in standard deviations; or by 1 / (k + rank).")
    dense: float | None = Field(None, gt=0, allow_inf_nan=False, description="Weight of what is found by vectors.")
    lexical: float | None = Field(None, gt=0, allow_inf_nan=False, description="Weight of what is found by words.")
    sparse: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Weight of what is found by a sparse encoder's terms."
    )
    k: int | None = Field(None, ge=1, description="How little the first ranks stand out.")


class RecencyBody(Body):
    weight: float = Field(
        0.2, gt=0, le=10, allow_inf_nan=False, description="What this moment adds, of the distance from worst to best."
    )
    half_life_days: float = Field(30.0, gt=0, allow_inf_nan=False, description="After so long it adds half as much.")


def _depth(given: object) -> object:
    """One fault for what is neither: by itself a union has one for each."""
    if given == "auto" or (type(given) is int and given >= 1):
        return given
    raise PydanticCustomError("depth", "should be a whole number, 1 or more, or 'auto'")


Depth = Annotated[
    int | Literal["auto"],
    PlainValidator(_depth, json_schema_input_type=Annotated[int, Field(ge=1)] | Literal["auto"]),
]


class SearchBody(Body):
    query: str = Field(examples=["how long can a filter be used"])
    collection: str = "default"
    top_k: int = Field(10, ge=1, description="Hits to return.")
    candidates: Depth | None = Field(
        None, description="Candidates to rerank, never fewer than top_k; auto stops when more change the top no more."
    )
    deadline_ms: int | None = Field(
        None, ge=1, description="Answer after so long, with as many candidates reranked as there was time for."
    )
    mode: Mode | None = Field(
        None, description="Find candidates by vectors, by words, by a sparse encoder's terms, or by all there are."
    )
    fusion: FusionBody = Field(FusionBody(), description="How the rankings of a hybrid search become one.")
    filter: dict[str, Any] | None = Field(None, examples=[{"year": {"$gte": 2020}}])
    rerank: bool | None = Field(
        None, description="false: the first stage's order. By default true, unless a calibration advises against it."
    )
    exact: bool = Field(False, description="Compare with every vector instead of asking the graph.")
    min_score: float | None = Field(None, allow_inf_nan=False, description="Leave out hits that score less.")
    min_relevance: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Leave out hits that are less probably relevant; the collection must be calibrated.",
    )
    on_truncation: Truncation = Field(
        "report", description="Where query and chunk are too long together: say so, refuse, or read chunks in windows."
    )
    newer_than: str | None = Field(
        None, description="An ISO 8601 date: only documents whose metadata has a later one in `date`."
    )
    recency: RecencyBody | None = Field(None, description="Let newer documents gain, by the `date` in their metadata.")
    superseded: bool = Field(False, description="Find documents that others name in their metadata's `supersedes`.")
    distinct: bool = Field(False, description="Leave out hits that say the same as a better one.")
    diversity: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="0: by score alone; 1: as unlike each other as can be."
    )
    group_by: Literal["document"] | None = Field(
        None, description="Let the hits of one document stand together; top_k then counts documents."
    )
    per_group: int = Field(2, ge=1, description="Most hits of a group.")
    expand: int = Field(0, ge=0, le=20, description="Chunks before and behind each hit that its context takes in.")
    max_tokens: int | None = Field(
        None, ge=1, description="Room for all texts of the answer together, in the encoder's tokens."
    )
    highlight: bool = Field(False, description="Say where the best sentence of each hit is.")
    explain: bool = Field(False, description="Say which words matched, and how much the filter left to search.")
    include: list[Part] = Field(
        ["text", "title", "metadata", "stages"], fail_fast=True, description="What hits carry beside ids."
    )


class DocumentBody(Body):
    id: str | None = Field(None, description="The caller's own; a missing id becomes a hash of the content.")
    text: str
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    format: Format = Field("plain", description="`markdown` is cut along its headings, tables, lists and code.")


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
    sparse: str | None = Field(
        None, description="A sparse encoder: a folder or a hub name; empty for none; by default the setting's."
    )
    recipe: RecipeBody = RecipeBody()
    language: Language | None = Field(None, description="Whose stems and stop words lexical search takes.")


class StageReply(BaseModel):
    score: float
    rank: int | None = Field(description="Its place there; null where the stage was only asked about it.")


class SeenReply(BaseModel):
    total: int
    scored: int = Field(description="How many of them the model saw.")


class ContextReply(BaseModel):
    text: str
    start: int
    end: int


class SpanReply(BaseModel):
    start: int
    end: int


class ExplanationReply(BaseModel):
    chunks: int = Field(description="Chunks of the collection.")
    allowed: int = Field(description="Those that the filter left to search.")
    conditions: list[int] = Field(description="How many each of the filter's conditions allows alone, in their order.")


class HitReply(BaseModel):
    id: str = Field(description="The chunk's own id.")
    document_id: str
    score: float
    start: int = Field(description="Where the chunk begins in the document's text, in characters.")
    end: int
    page: int | None = Field(None, description="The page that it stands on, where the document has pages.")
    last_page: int | None = Field(None, description="The page that it ends on, where that is another one.")
    heading: str | None = Field(None, description="The headings in force where it begins, outermost first.")
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    stages: dict[str, StageReply] | None = None
    tokens: SeenReply = Field(description="Of query and chunk together where they were reranked, else of the chunk.")
    window: SpanReply | None = Field(None, description="The part that earned the score, if it was read in windows.")
    context: ContextReply | None = Field(None, description="The text around it, where `expand` asks for it.")
    merged: list[str] | None = Field(None, description="Lower hits whose contexts are part of this one's.")
    highlight: SpanReply | None = Field(None, description="The best sentence, in the document's text.")
    matches: list[str] | None = Field(None, description="The query's words that it has, where `explain` asks for it.")
    relevance: float | None = Field(
        None, description="How probable it is that the document is relevant, where the collection is calibrated."
    )


class Milliseconds(BaseModel):
    queue: float = Field(description="Waiting for the model.")
    compute: float


class ModelsReply(BaseModel):
    encoder: str
    reranker: str | None
    sparse: str | None = Field(None, description="The sparse encoder, where it was asked.")


class IndexReply(BaseModel):
    fingerprint: str
    sequence: int = Field(description="The last change that this answer's index had seen.")


class DegradedReply(BaseModel):
    stage: Literal["rerank"]
    reason: Literal["deadline"]


class SearchReply(BaseModel):
    collection: str
    mode: Mode
    hits: list[HitReply]
    candidates: int = Field(description="Living chunks that the first stage proposed.")
    reranked: int = Field(description="How many of them the reranker has read.")
    truncated: dict[str, int] = Field(description="Of how many texts each model saw only a part.")
    timings: dict[str, Milliseconds]
    total_ms: float
    models: ModelsReply
    index: IndexReply
    degraded: DegradedReply | None = Field(None, description="The stage that was not finished, and why, if any.")
    explanation: ExplanationReply | None = None
    nothing_relevant: bool = Field(False, description="There were candidates; none reached `min_relevance`.")
    advice: str | None = Field(None, description="Why labels of this collection speak against reranking, if they do.")


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
    documents: dict[str, int] | None = Field(None, description="Of a JSONL file: how many lines became what.")
    refused: int | None = Field(None, description="Of a JSONL file: lines that no document could be made of.")


class FilesReply(BaseModel):
    job: str | None
    collection: str
    searchable: bool
    files: list[FileReply]


class KnownFile(Body):
    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class KnownBody(Body):
    files: list[KnownFile] = Field(fail_fast=True)
    collection: str = "default"


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


class DeleteReply(BaseModel):
    deleted: list[str]


class RecipeReply(BaseModel):
    chunk_tokens: int
    overlap_tokens: int
    title: Literal["first", "every", "never"]


class CalibratedReply(BaseModel):
    mode: Mode
    rerank: bool = Field(description="Whether searches that do not say are reranked.")
    advice: str = Field(description="Why not.")
    trouble: str | None = Field(description="Why the calibration does not hold any more, if it does not.")


class CollectionReply(BaseModel):
    name: str
    encoder: str
    reranker: str
    sparse: str | None = Field(description="The sparse encoder, where the collection has one.")
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


def told(place: Place) -> dict[str, Any]:
    """What there is to say of a chunk's place; nothing for a plain document."""
    last = place.last_page if place.last_page != place.page else None
    said = {"page": place.page, "last_page": last, "heading": place.heading or None}
    return {name: value for name, value in said.items() if value is not None}
