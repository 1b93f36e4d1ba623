"""A model's folder on disk: which kind it is, whether it is safe to open, and the hash of what it computes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from models.types import Blend, Blends, ModelError, Unit

Kind = Literal["encoder", "reranker", "sparse"]

_LATE = "MultiVectorEncoder"
_CLASSES: Mapping[Kind, str] = {"encoder": "SentenceTransformer", "reranker": "CrossEncoder", "sparse": "SparseEncoder"}
_TITLES: Mapping[Kind, str] = {"encoder": "encoder", "reranker": "reranker", "sparse": "sparse encoder"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TRUSTED = ("sentence_transformers.", "torch.")
_ROUTER = ".Router"
# Their activation functions are words that they know, where those of others are classes.
_IN_WORDS = ("SpladePooling", "Transformer")
_FIRST = ("Transformer", "SparseStaticEmbedding")
# PyLate's name for a module that sentence-transformers has too, and takes from there.
_RENAMED = "pylate.models.Dense.Dense"
SETTINGS_FILE = "config_sentence_transformers.json"
"""What sentence-transformers writes of a model as a whole, its prompts included."""

_ROUTES = "router_config.json"
_CONFIGS = (
    "modules.json",
    "config.json",
    _ROUTES,
    "sentence_*_config.json",
    "tokenizer_config.json",
    "artifact.metadata",
)
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "added_tokens.json", "special_tokens_map.json")
_UNITS: Mapping[str, Unit] = {"Identity": "logit", "Sigmoid": "probability"}
_BLENDS = {"dense": {"rerank", "dense"}, "hybrid": {"rerank", "dense", "lexical"}}
PRICE_FILE = "int8.json"
"""Beside a reranker's weights: what 8 bits were measured to cost it."""

RANGES_FILE = "int8.safetensors"
"""Beside it: in what ranges it meets what is rounded to 8 bits."""

_BEARABLE = 0.005
"""Of nDCG@10: what 8 bits may cost a reranker, at the worse end of the interval, to be taken unasked."""

# They tell where and with what a model was saved, not what it computes.
_VOLATILE = {"_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"}


def check_folder(name: str, path: Path, kind: Kind) -> None:
    """Refuses, before anything is loaded, what is of another kind or can only be opened by running its code."""
    _check_kind(name, path, kind)
    check_content(name, path)


def check_content(name: str, path: Path) -> None:
    """The same for a folder whose kind is known."""
    _check_code(name, path)
    _check_weights(name, path)


def title(kind: Kind) -> str:
    """What people call a kind."""
    return _TITLES[kind]


def is_late(path: Path) -> bool:
    """Whether a folder holds a model of late interaction, which compares a query and a text token by token."""
    return class_of(path) == _LATE


def kind_of(path: Path) -> Kind | None:
    """What a folder can serve as, as far as it says so."""
    found = class_of(path)
    return "reranker" if found == _LATE else next((kind for kind, name in _CLASSES.items() if name == found), None)


def class_of(path: Path) -> str | None:
    """Which class of sentence-transformers opens a folder, as far as it says so."""
    settings = _read(path / SETTINGS_FILE)
    if settings.get("model_type") == "ColBERT" or "query_prefix" in settings:
        return _LATE
    if declared := settings.get("model_type"):
        return str(declared)
    if (path / "modules.json").exists():
        return "SentenceTransformer"
    architectures = _read(path / "config.json").get("architectures") or []
    if "HF_ColBERT" in architectures:
        return _LATE
    return "CrossEncoder" if any(one.endswith("ForSequenceClassification") for one in architectures) else None


def named_prompts(path: Path) -> frozenset[str]:
    """The names of the prompts that were saved with a model, be they empty or not."""
    return frozenset(_read(path / SETTINGS_FILE).get("prompts") or ())


def wants_end(path: Path) -> bool:
    """Whether a tokenizer's configuration asks for an end token behind every text."""
    return _read(module_folders(path)[0] / "tokenizer_config.json").get("add_eos_token") is True


def read_blends(path: Path) -> Blends:
    """The blends that a reranker was trained for; without them it decides alone."""
    file = path / "blend.json"
    if not file.exists():
        return Blends()
    content = _read(file)
    if {stage: _terms(weights) - {"late"} for stage, weights in content.items()} != _BLENDS:
        raise ModelError(
            f'{file} must look like {{"dense": {{"rerank": 1.0, "dense": 11.2}}, '
            '"hybrid": {"rerank": 1.0, "dense": 9.8, "lexical": 3.1}}, with finite numbers that are not negative; both '
            'may have a weight for "late", too.'
        )
    return Blends(**{stage: Blend(**weights) for stage, weights in content.items()})


def bears_eight_bits(path: Path) -> bool:
    """Whether it was measured what 8 bits cost a reranker, and that is next to nothing."""
    file = path / PRICE_FILE
    if not file.exists():
        return False
    low: Any = _read(file).get("low")
    if not _is_number(low):
        raise ModelError(
            f'{file} must look like {{"measure": "nDCG@10", "queries": 900, "difference": -0.0005, "low": -0.0019, '
            '"high": 0.0008}}: what int8 changes, and the interval of that, as `winnow evaluate SETS --compare '
            "precision=int8` says it."
        )
    return bool(low >= -_BEARABLE)


def read_unit(path: Path) -> Unit:
    """What a cross-encoder's scores are, by the activation that it was saved with; of one label that is the sigmoid."""
    config = _read(path / "config.json")
    places = [_read(path / SETTINGS_FILE), config.get("sentence_transformers") or {}]
    named = [place.get("activation_fn") for place in places] + [config.get("sbert_ce_default_activation_function")]
    activation = next((name for name in named if isinstance(name, str) and name.startswith("torch.")), "Sigmoid")
    return _UNITS.get(activation.rpartition(".")[2], "similarity")


def hash_folder(path: Path, facts: Mapping[str, Any]) -> str:
    """The fingerprint: of a folder's weights, tokenizer and configuration, and of facts about their use."""
    digest = hashlib.sha256(_canonical(facts))
    for folder in module_folders(path):
        for file in _shaping_files(folder):
            digest.update(f"\0{file.relative_to(path).as_posix()}\0".encode())
            digest.update(_content_hash(file))
    return digest.hexdigest()


def _check_kind(name: str, path: Path, kind: Kind) -> None:
    found = class_of(path)
    if found is None:
        raise ModelError(
            f"{name} is no sentence-transformers model: {path} has neither modules.json (an encoder) nor the "
            f"classification head of a cross-encoder. Name a folder that {_CLASSES[kind]} saved."
        )
    if found != _CLASSES[kind]:
        raise ModelError(
            f"{name} is a {found}, which can't serve as {title(kind)}: choose a {_CLASSES[kind]} model for the "
            f"{title(kind)}."
        )


def _check_code(name: str, path: Path) -> None:
    for reference in _class_references(path):
        if not reference.startswith(_TRUSTED) and reference != _RENAMED:
            raise ModelError(
                f"{name} needs code of its own ({reference}), which is never run: choose a model that is made of "
                "the standard modules of sentence-transformers."
            )


def _class_references(path: Path) -> Iterator[str]:
    config, modules = _read(path / "config.json"), _modules(path)
    saved = [_read(path / SETTINGS_FILE), config.get("sentence_transformers") or {}]
    saved += [
        _read(path / module["path"] / "config.json") for module in modules if not module["type"].endswith(_IN_WORDS)
    ]
    named = [entry.get(key) for entry in saved for key in ("activation_fn", "activation_function")]
    named += [config.get("sbert_ce_default_activation_function")]
    yield from (module["type"] for module in modules)
    yield from (reference for reference in named if isinstance(reference, str))


def _check_weights(name: str, path: Path) -> None:
    for folder, needed in _wanted_weights(path):
        tensors = any(weight_files(folder))
        pickled = any(file for pattern in _PICKLES for file in folder.glob(pattern))
        if not tensors and (pickled or needed):
            raise ModelError(
                f"{name} has no safetensors weights in {folder}{' but pickled ones' if pickled else ''}: pickles can "
                "run code when opened and are refused. Save it again with model.save(path, safe_serialization=True)."
            )


def weight_files(folder: Path) -> Iterator[Path]:
    """What a module's weights are in."""
    return (file for file in folder.glob("*.safetensors") if file.name != RANGES_FILE)


def _wanted_weights(path: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of modules, and whether there must be weights: of those that others begin with, or that are looked
    up in. A router has none of its own."""
    for number, module in enumerate(_modules(path)):
        if not module["type"].endswith(_ROUTER):
            yield path / module["path"], number == 0 or module["type"].endswith(_FIRST)


def _modules(path: Path) -> list[dict[str, str]]:
    """What a model is made of. Behind a router stand the modules that it leads to."""
    file = path / "modules.json"
    if not file.exists():
        return [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    try:
        modules = [
            {"path": str(module["path"]), "type": str(module["type"])} for module in json.loads(file.read_bytes())
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is damaged: fetch the model again.") from error
    return [part for module in modules for part in (module, *_routed(path, module))]


def _routed(path: Path, router: Mapping[str, str]) -> Iterator[dict[str, str]]:
    if router["type"].endswith(_ROUTER):
        file = path / router["path"] / _ROUTES
        types = _read(file).get("types")
        if not isinstance(types, dict):
            raise ModelError(f"{file} does not say where it leads to: fetch the model again.")
        for folder, kind in types.items():
            yield {"path": (PurePosixPath(router["path"]) / folder).as_posix(), "type": str(kind)}


def module_folders(path: Path) -> list[Path]:
    """Where the modules of a model lie, each folder once."""
    return list(dict.fromkeys(path / module["path"] for module in _modules(path)))


def _shaping_files(folder: Path) -> list[Path]:
    patterns = ["*.safetensors", *_CONFIGS]
    patterns += ["tokenizer.json"] if (folder / "tokenizer.json").exists() else _VOCABULARIES
    return sorted({file for pattern in patterns for file in folder.glob(pattern)})


def _content_hash(file: Path) -> bytes:
    if file.suffix == ".json" and file.name != "tokenizer.json":
        return hashlib.sha256(_canonical(_without_volatile(_content(file)))).digest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _without_volatile(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if key not in _VOLATILE}


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    content = _content(file)
    if not isinstance(content, dict):
        raise ModelError(f"{file} must hold a JSON object.")
    return content


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error


def _terms(weights: Any) -> set[str]:
    """What a blend weighs, or nothing when a weight is no weight."""
    sound = isinstance(weights, dict) and all(_is_weight(value) for value in weights.values())
    return set(weights) if sound else set()


def _is_weight(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
