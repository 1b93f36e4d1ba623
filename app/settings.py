"""Every setting with its default and its reason: from a flag, the environment (WINNOW_HOST), or winnow.toml."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from app.types import Fusing, Fusion, Mode
from models.types import AskedPrecision, Prompts, Role
from models.words import Language

CONFIG_VARIABLE = "WINNOW_CONFIG"


class Settings(BaseSettings):
    """Read once at start; nothing changes them afterwards."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_", extra="forbid", frozen=True, allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    data_dir: Path = Field(Path("data"), description="Where documents and indexes are kept.")
    keys: Path | None = Field(
        None,
        description="File of API keys, which then has to be there; by default `keys.json` in the data directory.",
    )
    open: bool = Field(False, description="Listen on other addresses than this machine's own without asking for keys.")
    hosts: str = Field(
        "",
        description="Host names that requests may use while there are no keys, with commas between them; by "
        "default localhost, and any where `WINNOW_OPEN` is set.",
    )
    audit: Path | None = Field(None, description="File that gets a line for each write; by default the log has them.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How log lines look; auto means console on a terminal and JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least severe line to log.")
    log_texts: bool = Field(
        False, description="Let log lines have the messages of errors, which may quote what callers sent."
    )
    slow_seconds: float = Field(
        1.0, gt=0, description="A request that takes longer is logged as a warning that says where its time went."
    )
    traces: bool = Field(
        False,
        description="Send traces by OTLP, to `OTEL_EXPORTER_OTLP_ENDPOINT`; OpenTelemetry's other variables hold too.",
    )

    encoder: str = Field("embedded", description="Bi-encoder of new collections: `embedded`, a folder, or a hub name.")
    encoder_query_prompt: str | None = Field(
        None, description="Stands in front of queries in place of the encoder's own prompt, as an instruction does."
    )
    encoder_document_prompt: str | None = Field(
        None, description="Stands in front of documents in place of the encoder's own prompt."
    )
    reranker: str = Field(
        "embedded", description="Cross-encoder of new collections: `embedded`, a folder, or a hub name."
    )
    sparse: str = Field(
        "", description="Sparse encoder of new collections: a folder or a hub name; nothing leaves sparse search out."
    )
    model_cache: Path | None = Field(
        None, description="Where models from a hub are kept; by default the hub library's own."
    )
    offline: bool = Field(False, description="Never ask a model hub: take models from disk or fail.")
    device: str = Field("auto", description="Where models run: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.")
    precision: AskedPrecision = Field(
        "auto",
        description="Numbers that models compute in: `float32`, `bfloat16`, `int8` (rerankers alone; encoders as "
        "with auto); auto: bfloat16 where it is faster, and int8 for rerankers whose folder says "
        "that it costs next to nothing.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of model work; 0 takes every core.")
    runtime: Literal["auto", "torch", "openvino", "packed"] = Field(
        "auto",
        description="What computes: `torch`, `openvino`, `packed` (torch without padding); auto: `openvino` on a CPU, "
        "`packed` on a CUDA GPU, for what they can run, else torch.",
    )
    conversions: Path | None = Field(
        None, description="Where models converted for OpenVINO are kept; by default `winnow` in the user's cache."
    )

    chunk_tokens: int = Field(256, ge=16, description="Longest chunk of new collections, in the encoder's tokens.")
    overlap_tokens: int = Field(32, ge=0, description="Tokens that neighbouring chunks of new collections share.")
    language: Language = Field(
        "english", description="Whose stems and stop words lexical search goes by in new collections; `none`: neither."
    )
    query_reserve: int = Field(
        128, ge=8, description="Tokens kept free for the query beside a chunk, in what the reranker reads at once."
    )

    late: bool = Field(
        True,
        description="Keep vectors of tokens with each chunk of new collections, where the encoder makes them, and put "
        "candidates in order by them before the reranker reads any.",
    )
    mode: Mode = Field(
        "hybrid", description="First stages of a search that does not say: `hybrid`, `dense`, `lexical` or `sparse`."
    )
    candidates: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Candidates to rerank where a search does not say; `auto`: as long as more could be among "
        "the best.",
    )
    auto_candidates: int = Field(50, ge=1, description="Most candidates to rerank with `auto`, which may stop before.")
    fusion: Fusing = Field("scores", description="How rankings become one: by `scores`, or by `ranks` alone.")
    dense_weight: float = Field(0.6, gt=0, le=1e6, description="Fusion: weight of what is found by vectors.")
    lexical_weight: float = Field(0.4, gt=0, le=1e6, description="Fusion: weight of what is found by words.")
    sparse_weight: float = Field(
        0.4, gt=0, le=1e6, description="Fusion: weight of what is found by a sparse encoder's terms."
    )
    fusion_k: int = Field(60, ge=1, description="Fusion by ranks: how little the first ones stand out.")

    batch_tokens: int = Field(
        0,
        ge=0,
        description="Tokens in one model batch of searches, padding included; 0: 640 in OpenVINO, which computes "
        "several side by side, 4096 in torch on a CPU, 32768 elsewhere.",
    )
    bulk_batch_tokens: int = Field(
        0,
        ge=0,
        description="Tokens in one model batch of ingest, which a search may have to wait for; 0: 640, 2048 and "
        "16384 likewise.",
    )
    queue_tokens: int = Field(
        131072,
        ge=1024,
        description="Tokens that searches may have admitted at once, per model; more is refused with 429.",
    )
    queue_seconds: float = Field(
        5.0,
        gt=0,
        description="Seconds that a search may have to wait for a model, by its measured rate; more is refused "
        "with 429.",
    )
    query_cache_bytes: int = Field(
        16 * 2**20, ge=0, description="Memory for vectors of what searches asked lately, for each encoder; 0: for none."
    )
    pair_cache_bytes: int = Field(
        0, ge=0, description="Memory for scores of pairs that were reranked lately, each some 160 bytes; 0: for none."
    )
    filter_cache_bytes: int = Field(
        16 * 2**20,
        ge=0,
        description="Memory for the chunks that filters left lately, 8 bytes each, until the next write; 0: for none.",
    )
    auto_truncate: bool = Field(
        False,
        description="Read the beginning of too long a text where a request to TEI's routes does not say `truncate`.",
    )
    bulk_share: float = Field(
        0.25, ge=0, lt=1, description="Share of model time that ingest keeps while searches never pause."
    )

    index_m: int = Field(24, ge=4, le=96, description="HNSW: links per vector. More finds more and takes memory.")
    index_ef_construction: int = Field(200, ge=16, description="HNSW: effort when a vector is added.")
    index_ef: int = Field(400, ge=16, description="HNSW: effort of a search; never less than the candidates asked for.")
    index_dimensions: int | None = Field(
        None,
        ge=1,
        description="HNSW: how many of a vector's numbers the graph compares, the first ones; what it finds is put in "
        "order by all of them. By default all.",
    )
    index_precision: Literal["float32", "int8"] = Field(
        "float32",
        description="Vectors in memory beside the graph, to compare with few or all of them; int8: in a quarter "
        "of the room, and what comes out best is compared once more by what SQLite has.",
    )
    index_threads: int = Field(0, ge=0, description="HNSW: threads that add vectors; 0 takes a quarter of the cores.")
    exact_below: int = Field(
        4096, ge=0, description="Compare with every vector while so few are allowed: exact and no slower."
    )
    compact_share: float = Field(0.25, gt=0, lt=1, description="Rebuild an index when this share of it is deleted.")
    snapshot_changes: int = Field(20000, ge=1, description="Write an index snapshot after so many changes.")
    snapshot_seconds: float = Field(
        60.0, gt=0, description="Write an index snapshot when the last change is so many seconds old."
    )

    recall_objective: float = Field(
        0.98, gt=0, lt=1, description="Share of the ten nearest chunks that searches by graph ought to find."
    )
    tune_ef: bool = Field(
        False,
        description="Raise the effort above `WINNOW_INDEX_EF` while a collection misses the objective; lower it again.",
    )
    observe_share: float = Field(
        0.1, ge=0, le=1, description="Share of searches that are looked at once more in idle time; 0: none is watched."
    )
    observe_time: float = Field(
        0.05, gt=0, le=1, description="Share of the time that looking at searches once more may take."
    )
    observe_depth: int = Field(
        4,
        ge=2,
        le=20,
        description="Times the candidates that a search is reranked with when it is looked at once more.",
    )

    file_workers: int = Field(0, ge=0, description="Files that are converted at once; 0 takes half of the cores.")
    file_seconds: float = Field(
        120.0,
        gt=0,
        description="Seconds of the processor that converting one file may take; by the clock three times as many.",
    )
    file_memory_bytes: int = Field(2**30, ge=2**28, description="Memory that converting one file may take.")

    max_requests: int = Field(1024, ge=1, description="Requests under way at once; one more is refused with 429.")
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="Largest JSON request body.")
    max_line_bytes: int = Field(8 * 2**20, ge=1024, description="Longest line of an NDJSON ingest.")
    max_files: int = Field(64, ge=1, description="Files in one upload.")
    max_file_bytes: int = Field(64 * 2**20, ge=1, description="Largest file.")
    max_upload_bytes: int = Field(128 * 2**20, ge=1024, description="Largest upload, all of its files together.")
    max_uploads: int = Field(8, ge=1, description="Uploads of files under way at once; one more is refused with 429.")
    max_documents: int = Field(10_000, ge=1, description="Documents in one JSON ingest.")
    max_text_chars: int = Field(2_000_000, ge=1, description="Longest document text.")
    max_query_chars: int = Field(16_384, ge=1, description="Longest query.")
    max_id_chars: int = Field(512, ge=1, description="Longest document id.")
    max_title_chars: int = Field(1024, ge=1, description="Longest title.")
    max_metadata_bytes: int = Field(65_536, ge=2, description="Largest metadata of a document, as JSON.")
    max_metadata_depth: int = Field(8, ge=1, description="Deepest nesting of metadata.")
    max_filter_conditions: int = Field(256, ge=1, description="Most conditions in one filter.")
    max_top_k: int = Field(1000, ge=1, description="Most hits in one answer.")
    max_candidates: int = Field(
        1000, ge=1, description="Most candidates to rerank for one search, unless its `top_k` is larger."
    )
    max_collections: int = Field(256, ge=1, description="Most collections.")
    max_feedback: int = Field(1_000_000, ge=1, description="Most feedback that is kept of a collection.")

    max_connections: int = Field(2048, ge=1, description="Connections open at once; one more is refused with 429.")
    max_head_bytes: int = Field(
        65_536, ge=1024, description="Longest line and headers of a request together; more is refused with 431."
    )
    header_timeout: float = Field(
        10.0, gt=0, description="Seconds that a request's headers may take, and a new connection's first byte."
    )
    idle_timeout: int = Field(
        75,
        ge=1,
        description="Seconds that a connection is kept open between two requests; a proxy's should be shorter.",
    )
    body_timeout: float = Field(30.0, gt=0, description="Seconds that a request's body may stand still.")
    body_rate: float = Field(
        240.0,
        ge=0,
        description="Bytes a second that a body must come at, once it was waited for `WINNOW_BODY_TIMEOUT` in "
        "all; 0: any.",
    )
    send_timeout: float = Field(
        30.0, gt=0, description="Seconds that a client may leave its answer unread before it is cut off."
    )
    search_timeout: float = Field(30.0, gt=0, description="Seconds after which a search is given up with 503.")
    ingest_timeout: float = Field(
        300.0, gt=0, description="Seconds that an ingest waits to be searchable before it answers 202 with its job."
    )
    stall_seconds: float = Field(
        10.0,
        gt=0,
        description="Seconds that a model's batch may take, or ten times what its rate lets one expect if that "
        "is longer; then it is taken to hang: its callers get 503, and so does `/readyz`.",
    )
    hang_seconds: float = Field(
        60.0,
        ge=0,
        description="Seconds that a model, or the event loop, may then hang on before the process ends with exit "
        "code 4; 0: it never does.",
    )
    shutdown_timeout: float = Field(20.0, gt=0, description="Seconds that running requests get when the service stops.")

    @property
    def keys_file(self) -> Path:
        return self.keys or self.data_dir / "keys.json"

    @property
    def usual_fusion(self) -> Fusion:
        """Of a search that does not say."""
        return Fusion(self.fusion, self.dense_weight, self.lexical_weight, self.sparse_weight, self.fusion_k)

    @property
    def models(self) -> str:
        """Those of the default collection, as a mark of what was set."""
        return json.dumps([self.encoder, self.reranker, self.sparse])

    def graph_dimensions(self, dimensions: int) -> int:
        """How many numbers of vectors that have so many their graph compares."""
        return min(self.index_dimensions or dimensions, dimensions)

    @property
    def prompts(self) -> Mapping[str, Prompts]:
        """What the encoder, by its name, is asked to put in front of texts."""
        asked: dict[Role, str | None] = {"query": self.encoder_query_prompt, "document": self.encoder_document_prompt}
        return {self.encoder: {role: prompt for role, prompt in asked.items() if prompt is not None}}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get(CONFIG_VARIABLE, "winnow.toml")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)
