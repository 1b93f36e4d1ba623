"""A collection's calibration: what labels taught about its scores, kept, shown and removed."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.api.contract import OF_COLLECTIONS, refusals
from app.api.deps import EngineDep, StrictRoute
from app.api.schemas import Body
from app.api.search_schemas import HEAVIEST
from app.service.relevance import sparse_of, trouble
from app.service.shelf import Shelf
from app.stages.calibrate import MOST_SHARE
from app.types import Calibration, Fusing, Fusion, Mode, Scale
from models.types import Blend, Blends

router = APIRouter(
    prefix="/collections/{name}/calibration",
    tags=["collections"],
    route_class=StrictRoute,
    responses=refusals(*OF_COLLECTIONS),
)

MOST_KNOTS = 1000
MOST_MEASURED = 65_536
"""Bytes, as JSON."""
MOST_LEVELS = 32
"""Of objects and lists in each other."""


class ScaleBody(Body):
    """From score to probability, in log-odds straight from knot to knot."""

    scores: list[float] = Field(
        min_length=1,
        max_length=MOST_KNOTS,
        fail_fast=True,
        description="Final scores, each greater than the one before.",
    )
    relevance: list[float] = Field(
        min_length=1, max_length=MOST_KNOTS, fail_fast=True, description="The probability at each of them."
    )
    background: float = Field(
        0.0, ge=0, le=MOST_SHARE, description="How much of the mean of a query's ten best scores is first taken off."
    )
    rival: float = Field(
        0.0,
        ge=0,
        le=MOST_SHARE,
        description="Likewise of the best rival's score: of another document's for the first hit, else of the first's.",
    )

    @field_validator("scores")
    @classmethod
    def _rise(cls, given: list[float]) -> list[float]:
        if not all(one < other for one, other in pairwise(given)) or not abs(given[0] - given[-1]) < float("inf"):
            raise PydanticCustomError("not_rising", "must be finite numbers, each greater than the one before")
        return given

    @field_validator("relevance")
    @classmethod
    def _never_fall(cls, given: list[float]) -> list[float]:
        if not all(0 < each < 1 for each in given) or not all(one <= other for one, other in pairwise(given)):
            raise PydanticCustomError("falling", "must be numbers between 0 and 1, none less than the one before")
        return given

    @model_validator(mode="after")
    def _belong_together(self) -> ScaleBody:
        if len(self.scores) != len(self.relevance):
            raise PydanticCustomError("lengths", "must have as many scores as relevance")
        return self

    def scale(self) -> Scale:
        return Scale(tuple(self.scores), tuple(self.relevance), self.background, self.rival)


class BlendBody(Body):
    rerank: float = Field(ge=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of the reranker's score.")
    dense: float = Field(ge=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of the cosine.")
    lexical: float = Field(ge=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of the BM25 share.")
    late: float = Field(
        0.0, ge=0, le=HEAVIEST, allow_inf_nan=False, description="Weight of what comes of comparing token by token."
    )

    @model_validator(mode="after")
    def _is_something(self) -> BlendBody:
        if not self.rerank + self.dense + self.lexical + self.late:
            raise PydanticCustomError("nothing", "must have a weight above 0")
        return self


class WholeFusionBody(Body):
    by: Fusing = Field(description="As in a search.")
    dense: float = Field(gt=0, le=HEAVIEST, allow_inf_nan=False, description="Likewise.")
    lexical: float = Field(gt=0, le=HEAVIEST, allow_inf_nan=False, description="Likewise.")
    sparse: float = Field(gt=0, le=HEAVIEST, allow_inf_nan=False, description="Likewise.")
    k: int = Field(ge=1, description="Likewise.")


class CalibrationBody(Body):
    """As `winnow calibrate` makes it."""

    mode: Mode = Field(description="Of the searches that it is about.")
    encoder: str = Field(max_length=128, description="Fingerprint of the encoder that it was made with.")
    reranker: str = Field(max_length=128, description="Likewise.")
    sparse: str = Field("", max_length=128, description="Likewise of the sparse encoder; empty without one.")
    late: str = Field("", max_length=128, description="Likewise of the vectors of tokens; empty without any.")
    reranked: ScaleBody = Field(description="Of searches that are reranked.")
    unreranked: ScaleBody = Field(description="Of those that are not.")
    fusion: WholeFusionBody = Field(description="Of hybrid searches that are not reranked.")
    blend: BlendBody | None = Field(None, description="In place of the reranker's own.")
    rerank: bool = Field(True, description="Whether searches that do not say are reranked.")
    advice: str = Field("", max_length=1000, description="Why not.")
    measured: dict[str, Any] = Field(default_factory=dict, description="What was found on held-out queries.")
    created_at: str = Field("", max_length=64, description="Of one that is carried here; the time it is kept counts.")

    @field_validator("measured")
    @classmethod
    def _is_short(cls, given: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(orjson.dumps(given))
        except orjson.JSONEncodeError:  # it is nested in hundreds of levels
            size = 0
        if size > MOST_MEASURED:
            raise PydanticCustomError("too_long", "is longer than {most} bytes", {"most": MOST_MEASURED})
        if not size or not _is_flat(given, MOST_LEVELS):
            raise PydanticCustomError("too_deep", "is nested deeper than {most} levels", {"most": MOST_LEVELS})
        return given

    @model_validator(mode="after")
    def _gives_its_reason(self) -> CalibrationBody:
        if self.rerank == bool(self.advice):
            raise PydanticCustomError("unexplained", "must have an advice where rerank is false, and only there")
        return self

    def calibration(self) -> Calibration:
        return Calibration(
            mode=self.mode,
            encoder=self.encoder,
            reranker=self.reranker,
            reranked=self.reranked.scale(),
            unreranked=self.unreranked.scale(),
            fusion=Fusion(**self.fusion.model_dump()),
            blend=Blend(**self.blend.model_dump()) if self.blend else None,
            rerank=self.rerank,
            advice=self.advice,
            measured=self.measured,
            sparse=self.sparse,
            late=self.late,
        )


class KeptReply(CalibrationBody):
    trouble: str | None = Field(description="Why it does not hold any more, if it does not.")


class CalibrationReply(BaseModel):
    collection: str
    encoder: str = Field(description="Fingerprint of the collection's encoder.")
    reranker: str = Field(description="Fingerprint of its reranker.")
    sparse: str = Field(description="Fingerprint of its sparse encoder; empty where it has none.")
    late: str = Field(description="Fingerprint of the vectors of its chunks' tokens; empty where they have none.")
    mode: Mode = Field(description="Of searches that do not say, as the fusion.")
    blends: dict[str, BlendBody] = Field(description="The reranker's own, for a dense and for a hybrid first stage.")
    late_blends: dict[str, BlendBody] | None = Field(
        description="What puts candidates in order by their tokens, where they have vectors of them."
    )
    fusion: WholeFusionBody
    calibrations: list[KeptReply] = Field(description="One for each mode that was calibrated.")


@router.get("", response_model=CalibrationReply, summary="What is known of a collection's scores")
async def show(name: str, engine: EngineDep) -> CalibrationReply:
    shelf = engine.collections.shelf(name)
    reranker = shelf.ranker.reranker
    kept = await engine.relevance.every(shelf.collection.number)
    return CalibrationReply(
        collection=name,
        encoder=shelf.embedder.encoder.fingerprint,
        reranker=reranker.fingerprint,
        sparse=sparse_of(shelf),
        mode=engine.settings.mode,
        late=shelf.collection.late,
        blends=_blends(reranker.blends),
        late_blends=_blends(shelf.late.blends) if shelf.late else None,
        fusion=WholeFusionBody(**asdict(engine.settings.usual_fusion)),
        calibrations=[_kept(each, shelf) for each in kept.values()],
    )


@router.put("", response_model=KeptReply, summary="Keep a calibration for one mode of a collection")
async def keep(name: str, body: CalibrationBody, engine: EngineDep) -> KeptReply:
    shelf = engine.collections.shelf(name)
    return _kept(await engine.relevance.keep(shelf, body.calibration()), shelf)


@router.delete("", status_code=204, summary="Remove a collection's calibrations")
async def forget(name: str, engine: EngineDep) -> None:
    await engine.relevance.forget(engine.collections.shelf(name))


def _is_flat(given: object, most: int) -> bool:
    """Whether it is no deeper than so many levels."""
    within = given.values() if isinstance(given, dict) else given if isinstance(given, list) else None
    return within is None or (most > 0 and all(_is_flat(each, most - 1) for each in within))


def _blends(blends: Blends) -> dict[str, BlendBody]:
    return {kind: BlendBody(**blend) for kind, blend in asdict(blends).items()}


def _kept(calibration: Calibration, shelf: Shelf) -> KeptReply:
    scales = {each: _scale(getattr(calibration, each)) for each in ("reranked", "unreranked")}
    plain = asdict(calibration) | scales
    return KeptReply(**plain, trouble=trouble(calibration, shelf))


def _scale(scale: Scale) -> ScaleBody:
    return ScaleBody(**asdict(scale) | {"scores": list(scale.scores), "relevance": list(scale.relevance)})
