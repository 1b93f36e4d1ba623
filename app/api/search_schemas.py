"""A search as it goes over the wire: what is asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from app.api.schemas import SOME_TEXT, Body
from app.types import Fusing, Mode, Truncation

Part = Literal["text", "title", "metadata", "stages"]

PER_GROUP = 2

HEAVIEST = 1e6
"""Of weights: beyond, sums of scores would leave the numbers there are."""


class FusionBody(Body):
    by: Fusing | None = Field(None, description="By scores, in standard deviations; or by 1 / (k + rank).")
    dense: float | None = Field(
        None, gt=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of what is found by vectors."
    )
    lexical: float | None = Field(
        None, gt=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of what is found by words."
    )
    sparse: float | None = Field(
        None, gt=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of what is found by a sparse encoder's terms."
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
    query: str = Field(
        json_schema_extra=SOME_TEXT,
        examples=["how long can a filter be used"],
        description="The question, as it was asked.",
    )
    collection: str = Field("default", description="Where to look.")
    top_k: int = Field(10, ge=1, description="Hits to return.")
    candidates: Depth | None = Field(
        None,
        description="Candidates to rerank, never fewer than top_k; auto stops where no more could be among the best.",
    )
    deadline_ms: int | None = Field(
        None, ge=1, description="Answer after so long, with as many candidates reranked as there was time for."
    )
    mode: Mode | None = Field(
        None, description="Find candidates by vectors, by words, by a sparse encoder's terms, or by all there are."
    )
    fusion: FusionBody = Field(FusionBody(), description="How the rankings of a hybrid search become one.")
    filter: dict[str, Any] | None = Field(
        None, examples=[{"year": {"$gte": 2020}}], description="Conditions on metadata: which documents may answer."
    )
    rerank: bool | None = Field(
        None, description="false: the first stage's order. By default true, unless a calibration advises against it."
    )
    late: bool = Field(
        True, description="false: leave out comparing candidates token by token, where the collection can do that."
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
    per_group: int = Field(PER_GROUP, ge=1, description="Most hits of a group, where `group_by` makes groups.")
    expand: int = Field(0, ge=0, le=20, description="Chunks before and behind each hit that its context takes in.")
    max_tokens: int | None = Field(
        None, ge=1, description="Room for all texts of the answer together, in the encoder's tokens."
    )
    highlight: bool = Field(False, description="Say where the best sentence of each hit is.")
    explain: bool = Field(False, description="Say which words matched, and how much the filter left to search.")
    include: list[Part] = Field(
        ["text", "title", "metadata", "stages"], fail_fast=True, description="What hits carry beside ids."
    )

    @field_validator("per_group")
    @classmethod
    def _of_groups(cls, given: int, info: ValidationInfo) -> int:
        """A client that says all of its defaults is let be."""
        if given != PER_GROUP and info.data.get("group_by", "document") is None:
            raise PydanticCustomError(
                "groups", 'says how many hits a group has: make groups with "group_by": "document"'
            )
        return given


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
    left_out: int = Field(0, description="Hits that `max_tokens` had no room for.")
    nothing_relevant: bool = Field(False, description="There were candidates; none reached `min_relevance`.")
    advice: str | None = Field(None, description="Why labels of this collection speak against reranking, if they do.")
