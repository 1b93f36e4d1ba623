"""A thin search service in front of infinity: both models are asked there, the HNSW index and the texts are here.

python loadtest/peers/infinity_client.py --models http://127.0.0.1:7997 --port 8001
"""

from __future__ import annotations

import argparse

import hnswlib
import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel

DIMENSIONS = 384
LINKS, BUILD_EFFORT, SEARCH_EFFORT = 16, 200, 100


class Passage(BaseModel):
    id: str
    text: str


class Ingest(BaseModel):
    documents: list[Passage]


class Search(BaseModel):
    query: str
    top_k: int = 10
    candidates: int = 50


class Models:
    """Both models, asked over HTTP."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)  # sooner than the other side closes
        self.client = httpx.AsyncClient(base_url=url, timeout=None, limits=limits)

    async def encode(self, texts: list[str]) -> NDArray[np.float32]:
        answer = await self.client.post("/embeddings", json={"model": "encoder", "input": texts})
        return np.array([each["embedding"] for each in answer.raise_for_status().json()["data"]], np.float32)

    async def rerank(self, query: str, texts: list[str], top: int) -> list[tuple[int, float]]:
        asked = {"model": "reranker", "query": query, "documents": texts, "top_n": top}
        answer = await self.client.post("/rerank", json=asked)
        return [(each["index"], each["relevance_score"]) for each in answer.raise_for_status().json()["results"]]


def build(models: Models) -> FastAPI:
    app = FastAPI()
    held: list[Passage] = []
    index = hnswlib.Index(space="ip", dim=DIMENSIONS)
    index.init_index(max_elements=1000, M=LINKS, ef_construction=BUILD_EFFORT)
    index.set_ef(SEARCH_EFFORT)

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": (await models.client.get("/health")).is_success}

    @app.post("/ingest")
    async def ingest(body: Ingest) -> dict[str, int]:
        vectors = await models.encode([each.text for each in body.documents])
        if len(held) + len(vectors) > index.get_max_elements():
            index.resize_index(2 * index.get_max_elements() + len(vectors))
        index.add_items(vectors, range(len(held), len(held) + len(vectors)))
        held.extend(body.documents)
        return {"documents": len(held)}

    @app.post("/search")
    async def search(body: Search) -> dict[str, list[dict[str, str | float]]]:
        labels, _ = index.knn_query(await models.encode([body.query]), k=min(body.candidates, len(held)))
        candidates = [held[label] for label in labels[0]]
        best = await models.rerank(body.query, [each.text for each in candidates], body.top_k)
        return {"hits": [{"id": candidates[n].id, "score": score, "text": candidates[n].text} for n, score in best]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, help="where infinity listens")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(build(Models(given.models)), port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
