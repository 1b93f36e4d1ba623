"""The service that tutorials show, written with care: FastAPI, sentence-transformers and hnswlib in one process.

    python loadtest/peers/naive.py --encoder models/weights/encoder --reranker models/weights/reranker --port 8001

What careful means: texts are encoded and pairs scored in batches that sentence-transformers sorts by length; the models
run in a worker thread, so that the service stays reachable; one search at a time, since models that run beside each
other on the same cores only make each other wait. Each caller's batches are his own.
"""

from __future__ import annotations

import argparse
from threading import Lock

import hnswlib
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder, SentenceTransformer

PAIRS_AT_ONCE = 32
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


def build(encoder: SentenceTransformer, reranker: CrossEncoder) -> FastAPI:
    app = FastAPI()
    held: list[Passage] = []
    turn = Lock()
    index = hnswlib.Index(space="ip", dim=encoder.get_embedding_dimension())
    index.init_index(max_elements=1000, M=LINKS, ef_construction=BUILD_EFFORT)
    index.set_ef(SEARCH_EFFORT)

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/ingest")
    def ingest(body: Ingest) -> dict[str, int]:
        with turn:
            vectors = encoder.encode([each.text for each in body.documents], normalize_embeddings=True)
            if index.get_current_count() + len(vectors) > index.get_max_elements():
                index.resize_index(2 * index.get_max_elements() + len(vectors))
            index.add_items(vectors, range(len(held), len(held) + len(vectors)))
            held.extend(body.documents)
        return {"documents": len(held)}

    @app.post("/search")
    def search(body: Search) -> dict[str, list[dict[str, str | float]]]:
        with turn:
            vector = encoder.encode(body.query, normalize_embeddings=True)
            labels, _ = index.knn_query(vector, k=min(body.candidates, len(held)))
            candidates = [held[label] for label in labels[0]]
            scores = reranker.predict([(body.query, each.text) for each in candidates], batch_size=PAIRS_AT_ONCE)
        best = sorted(zip(scores.tolist(), candidates, strict=True), key=lambda pair: -pair[0])[: body.top_k]
        return {"hits": [{"id": each.id, "score": score, "text": each.text} for score, each in best]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--reranker", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    given = parser.parse_args()
    options = {"dtype": given.precision}
    encoder = SentenceTransformer(given.encoder, model_kwargs=options)
    app = build(encoder, CrossEncoder(given.reranker, model_kwargs=options))
    uvicorn.run(app, port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
