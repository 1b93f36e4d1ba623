"""The nouns of the model layer and its three protocols: token ids in, numbers out.

A model is used in two steps. `tokenize` is cheap, runs on any thread and says how many tokens a text has and how many
of them the model will see; `encode` and `score` are dear and take whatever batch of such tokens they are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from sys import getsizeof
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Vectors = NDArray[np.float32]
"""One unit-length row per text, or zeros for one without tokens."""

Scores = NDArray[np.float32]
"""One number per pair: higher is more relevant."""

Ids = NDArray[np.int32]
"""A text's token ids, without special tokens."""

Role = Literal["query", "document"]
"""Which side of the search a text is on: many encoders put another prompt in front of each."""

Prompts = Mapping[Role, str]
"""What stands in front of texts on each side, or nothing."""

NO_PROMPTS: Prompts = {"query": "", "document": ""}

Precision = Literal["float32", "bfloat16", "int8"]
"""The numbers that a model computes in."""

AskedPrecision = Literal["auto"] | Precision
"""Those that it is to compute in: `auto` leaves the choice to what is faster."""

Unit = Literal["logit", "probability", "similarity"]
"""What a reranker's scores are: logits, their sigmoid, or numbers of another kind, whose order alone says something."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A text as weighted terms of a model's vocabulary. What two texts have to do with each other is the sum, over the
    terms that both have, of the products of their weights."""

    terms: NDArray[np.int32]
    """In rising order."""
    weights: NDArray[np.float32]
    """Above 0."""

    def __len__(self) -> int:
        return len(self.terms)


TokenVectors = NDArray[np.int8]
"""Of a text's own tokens, in their order: a row for each, of which the direction alone counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A text's vector, and those of its tokens."""

    vector: NDArray[np.float32]
    tokens: TokenVectors

    def copy(self) -> Embedded:
        """One that keeps no batch in memory."""
        return Embedded(self.vector.copy(), self.tokens.copy())

    def __sizeof__(self) -> int:
        return int(getsizeof(self.vector) + getsizeof(self.tokens))


@dataclass(frozen=True, slots=True, eq=False)
class TokenQuery:
    """A query whose tokens are compared with those of texts."""

    tokens: TokenVectors
    weights: NDArray[np.float32]
    """What each counts; together they come to 1."""


class ModelError(Exception):
    """A model that cannot be loaded or used; the message says what to change."""


class OutOfMemory(ModelError):
    """A batch that the device has no memory for; a smaller one may fit."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Where and how models run, whichever they are."""

    device: str = "auto"
    precision: AskedPrecision = "auto"
    """int8 is for rerankers; see `unrounded`."""
    threads: int = 0
    """CPU threads of model work; 0 leaves the choice to what computes."""
    runtime: Literal["auto", "torch", "openvino", "packed"] = "auto"
    """What computes: OpenVINO is the faster one on a CPU, torch without padding (packed) on a GPU."""
    conversions: Path | None = None
    """Where models converted for OpenVINO are kept; without it, in the user's cache folder."""
    cache: Path | None = None
    offline: bool = False
    prompts: Mapping[str, Prompts] = field(default_factory=dict)
    """By an encoder's name: what stands in front of its texts in place of what its authors put there."""

    @property
    def unrounded(self) -> ModelOptions:
        """For encoders: vectors that were rounded to 8 bits on the way would be another encoder's."""
        return replace(self, precision="auto") if self.precision == "int8" else self


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A text, or a query and a text, as the model will see it."""

    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    total: int
    """How many tokens it would take to see everything: more than `len(self)` when the model's limit cut it."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def truncated(self) -> bool:
        return self.total > len(self.ids)


@dataclass(frozen=True, slots=True)
class Blend:
    """How a reranker's score and the first stage's make the final score: a weighted sum, fitted to labels."""

    rerank: float = 1.0
    dense: float = 0.0
    """Beside the cosine."""
    lexical: float = 0.0
    """Beside BM25, as the share (0 to 1) that a text has of the most its query can score."""
    late: float = 0.0
    """Beside what comes of comparing token by token, -1 to 1."""


@dataclass(frozen=True, slots=True)
class Blends:
    """A reranker's blends, one for each kind of first stage."""

    dense: Blend = Blend()
    hybrid: Blend = Blend()

    @property
    def facts(self) -> dict[str, dict[str, float]]:
        """For a fingerprint, which a weight that nothing has must not change."""
        both = {"dense": asdict(self.dense), "hybrid": asdict(self.hybrid)}
        return {kind: {name: weight for name, weight in weights.items() if weight or name != "late"}
                for kind, weights in both.items()}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LateHead:
    """How an encoder's texts are compared token by token."""

    layer: int
    """Whose states the tokens are, counted from 1."""
    mean: NDArray[np.float32]
    """Of the states, and taken off them."""
    projection: NDArray[np.float32]
    """From a state to the numbers that are kept: a column for each."""
    rarity: NDArray[np.float32]
    """Of each token of the vocabulary, as BM25 counts it."""
    blends: Blends
    """What puts candidates in order as long as no reranker has read them."""

    @property
    def width(self) -> int:
        """Numbers of a token's vector."""
        return int(self.projection.shape[1])

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes the vectors; which encoder they are of is said by that one's."""
        digest = hashlib.sha256(str(self.layer).encode())
        for numbers in (self.mean, self.projection):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()

    def weights(self, ids: Ids) -> NDArray[np.float32]:
        """What each of a query's tokens counts; together they come to 1."""
        rare = self.rarity[np.minimum(ids, len(self.rarity) - 1)]  # what was added behind them counts as the last
        return np.asarray(rare / max(rare.sum(), np.finfo(np.float32).tiny), np.float32)


@dataclass(frozen=True, slots=True)
class Grain:
    """In what portions a model is best given its work. One that computes several side by side is asked from as many
    threads."""

    abreast: int = 1
    tokens: int = 0
    """In each of them, padding included; 0: it says nothing of it."""
    ahead: int = 0
    """So many more may lie ready, so that none of those waits for Python to bring the next."""

    @property
    def most(self) -> int:
        """Portions that it may have at once."""
        return self.abreast + self.ahead


WHOLE = Grain()
"""One batch after the other."""


class BiEncoder(Protocol):
    """Texts to vectors, each text on its own."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes a vector: weights, tokenizer, pooling, prompts, normalisation, dimensions."""

    @property
    def dimensions(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def runtime(self) -> str:
        """What computes it."""

    @property
    def precision(self) -> Precision: ...

    @property
    def grain(self) -> Grain: ...

    @property
    def prompts(self) -> Prompts: ...

    @property
    def capacity(self) -> int:
        """Tokens of a document's text that fit beside its prompt and the special tokens."""

    @property
    def tokenizer(self) -> Tokenizer:
        """For counting and splitting: it neither cuts nor pads. Any thread may use it, and none may change it."""

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]: ...

    def encode(self, batch: Sequence[Tokens]) -> Vectors: ...

    @property
    def late(self) -> LateHead | None:
        """How it compares texts token by token, if it does."""

    def inside(self, tokens: Tokens) -> slice:
        """Which of a text's tokens are its own, and not of the frame around it."""

    def encode_whole(self, batch: Sequence[Tokens]) -> list[Embedded]:
        """Vectors of texts and of their tokens, where it compares those."""


class SparseEncoder(Protocol):
    """Texts to weighted terms, each text on its own; those that it has, and those that it could have had."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes a vector: weights, tokenizers, pooling, prompts, and how many terms are kept."""

    @property
    def device(self) -> str: ...

    @property
    def runtime(self) -> str:
        """What computes it."""

    @property
    def precision(self) -> Precision: ...

    @property
    def prompts(self) -> Prompts: ...

    @property
    def capacity(self) -> int:
        """Tokens of a document's text that fit beside its prompt and the special tokens."""

    @property
    def most_terms(self) -> int:
        """A text keeps so many terms at most, those that weigh most."""

    @property
    def reads_queries(self) -> bool:
        """Whether a query takes a model; otherwise its terms are looked up, in microseconds and in any thread."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of documents, likewise."""

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]: ...

    def encode(self, batch: Sequence[Tokens], role: Role) -> list[SparseVector]:
        """Queries and documents may be read by different parts of a model: a batch is of one side."""


class Reranker(Protocol):
    """Query and text together to one score."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def runtime(self) -> str:
        """What computes it."""

    @property
    def precision(self) -> Precision: ...

    @property
    def grain(self) -> Grain: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def blends(self) -> Blends: ...

    @property
    def prompts(self) -> Prompts: ...

    @property
    def capacity(self) -> int:
        """Tokens that fit beside prompts and special tokens: of query and text together, or, where each has room of
        its own, of the text."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def tokenisation(self) -> bytes:
        """Stands for all that shapes the ids of a text: rerankers with the same one can take each other's. Of eight
        bytes, since it is kept beside every chunk's."""

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """Texts as they are kept for searches to come: whatever the query, their ids are these."""

    def pair(self, query: str, texts: Sequence[Ids]) -> list[Tokens]:
        """The query with each of the texts that were read."""

    def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        """Both at once."""

    def score(self, batch: Sequence[Tokens]) -> Scores: ...
