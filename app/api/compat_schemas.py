"""What other services' clients send and expect, as far as Winnow speaks like those services.

A field that would change the answer is heeded or refused, never passed over. What texts there are is looked at in
api/compat_checks.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from app.api.schemas import SOME_TEXT, Body
from app.types import Truncation
from models.types import Role

LONGEST_NAME = 4096
"""Of a model, which may be a path."""

ROLES: dict[str, Role] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
}
"""What services call the sides of a search."""


def _several(given: object) -> object:
    """One text or a list of them, with one fault for what is neither."""
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts:
        return texts
    raise PydanticCustomError("texts", "should be a text, or a list of texts that has at least one")


Text = Annotated[str, Field(json_schema_extra=SOME_TEXT)]
Texts = Annotated[
    list[Any], PlainValidator(_several, json_schema_input_type=Text | Annotated[list[Text], Field(min_length=1)])
]


class TextBody(Body):
    text: str = Field(description="What is ranked.")


class DocumentsBody(Body):
    """A reranking as Cohere, Jina and infinity take it."""

    model: str | None = Field(None, max_length=LONGEST_NAME, description="The reranker's name, if any.")
    query: str = Field(json_schema_extra=SOME_TEXT, description="What the texts are ranked by.")
    documents: list[Any] = Field(
        min_length=1,
        json_schema_extra={"items": {"anyOf": [{"type": "string"}, TextBody.model_json_schema()]}},
        description="What is ranked: texts, by themselves or each as an object.",
    )
    top_n: int | None = Field(None, ge=1, description="Results to return; by default all.")
    return_documents: bool | None = Field(False, description="Whether the answer has their texts.")
    max_tokens_per_doc: int | None = Field(
        None, ge=1, description="Read no more of a document; the reranker's own limit stays."
    )
    raw_scores: bool = Field(False, description="Logits in place of scores between 0 and 1.")
    on_truncation: Truncation = Field(
        "report", description="Where query and document are too long together: say so, refuse, or read in windows."
    )
    priority: int | None = Field(None, description="Of no effect: all requests are alike.")


class TextsBody(Body):
    """A reranking as text-embeddings-inference takes it."""

    query: str = Field(json_schema_extra=SOME_TEXT, description="What the texts are ranked by.")
    texts: list[Any] = Field(
        min_length=1, json_schema_extra={"items": {"type": "string"}}, description="What is ranked."
    )
    raw_scores: bool | None = Field(False, description="Logits in place of scores between 0 and 1.")
    return_text: bool | None = Field(False, description="Whether the answer has their texts.")
    truncate: bool | None = Field(
        None, description="Read the beginning of what is too long; false refuses it. By default the setting's."
    )
    truncation_direction: Literal["right", "Right"] = Field("right", description="Texts are cut at their end.")


def _either(given: object) -> DocumentsBody | TextsBody:
    """Told apart by what the texts are called."""
    body = TextsBody if isinstance(given, dict) and "texts" in given else DocumentsBody
    return body.model_validate(given)


EitherBody = Annotated[
    DocumentsBody | TextsBody, PlainValidator(_either, json_schema_input_type=DocumentsBody | TextsBody)
]


class EmbeddingsBody(Body):
    """Texts to embed as OpenAI takes them."""

    input: Texts = Field(description="A text, or several.")
    model: str | None = Field(None, max_length=LONGEST_NAME, description="The encoder's name, if any.")
    encoding_format: Literal["float", "base64"] | None = Field(
        "float", description="Numbers, or their bytes (float32, little-endian)."
    )
    dimensions: int | None = Field(None, ge=1, description="One of the lengths that the encoder was trained for.")
    input_type: Literal["query", "search_query", "document", "passage", "search_document"] | None = Field(
        None, description="Which side of a search they are on, by default documents; as Cohere, Voyage and NVIDIA say."
    )
    task: Literal["retrieval.query", "retrieval.passage"] | None = Field(None, description="The same as Jina says it.")
    on_truncation: Literal["report", "refuse"] = Field(
        "report", description="Where a text is longer than the encoder reads: say so in a header, or refuse."
    )
    user: str | None = Field(None, description="Of no effect.")

    @model_validator(mode="after")
    def _is_on_one_side(self) -> EmbeddingsBody:
        if self.input_type and self.task:
            raise PydanticCustomError("sides", "should have input_type or task, not both")
        return self

    @property
    def role(self) -> Role:
        return ROLES[self.input_type or self.task or "document"]


class EmbedBody(Body):
    """Texts to embed as text-embeddings-inference takes them."""

    inputs: Texts = Field(description="A text, or several.")
    normalize: Literal[True] | None = Field(True, description="Vectors have unit length.")
    truncate: bool | None = Field(
        None, description="Read the beginning of what is too long; false refuses it. By default the setting's."
    )
    truncation_direction: Literal["right", "Right"] = Field("right", description="Texts are cut at their end.")
    prompt_name: Literal["query", "document", "passage"] | None = Field(
        None, description="Which side of a search they are on; by default documents."
    )
    dimensions: int | None = Field(None, ge=1, description="One of the lengths that the encoder was trained for.")


class RankReply(BaseModel):
    index: int
    score: float
    text: str | None = None


class ResultReply(BaseModel):
    index: int = Field(description="The document's place among those sent.")
    relevance_score: float
    document: TextBody | None = None


class UsageReply(BaseModel):
    prompt_tokens: int = Field(description="How many the model read.")
    total_tokens: int


class CountReply(BaseModel):
    input_tokens: int


class MetaReply(BaseModel):
    tokens: CountReply
    warnings: list[str] | None = Field(None, description="What was not read whole, if anything.")


class ResultsReply(BaseModel):
    id: str
    object: Literal["rerank"]
    model: str
    results: list[ResultReply] = Field(description="Best first.")
    meta: MetaReply
    usage: UsageReply


class VectorReply(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsReply(BaseModel):
    object: Literal["list"]
    data: list[VectorReply]
    model: str
    usage: UsageReply


class ServedReply(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Since when it has been open here, in seconds of Unix time.")
    owned_by: Literal["winnow"] = "winnow"
    serves: list[Literal["embeddings", "rerank"]]


class ServedModelsReply(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedReply]
