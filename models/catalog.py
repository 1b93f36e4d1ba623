"""From a model's name to the model: the only place that knows all kinds. Torch is imported when a model needs it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.cards import known_as, refuse
from models.fake import FakeEncoder, FakeReranker, FakeSparseEncoder
from models.folder import Kind, check_folder, is_late, title
from models.runtimes import choose, refuse_but_torch, refuse_int8
from models.types import NO_PROMPTS, BiEncoder, ModelError, ModelOptions, Reranker, SparseEncoder

_WEIGHTS = Path(__file__).parent / "weights"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FAKE = re.compile(r"fake(?::([1-9]\d*))?")
_FAKE_ENCODER = re.compile(r"fake(:late)?(?::([1-9]\d*))?")
_WANTED_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "artifact.metadata"]
_UNWANTED_FILES = ["onnx/*", "openvino/*"]


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Whatever the system does not let be read."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"A model can't be read: {error}. Fetch it again, or let whoever runs Winnow read its files."
        ) from error


@_in_a_sentence()
def open_encoder(name: str, options: ModelOptions | None = None) -> BiEncoder:
    """An encoder: `embedded`, a folder, a hub name, or, in tests alone, `fake` (or `fake:32` for other dimensions).

    `fake:late` (or `fake:late:32`) compares word by word, too; `fake:frail` hangs on the word `hangs`, its thread dies
    of `dies`, and it complains of `quotes` and `fails`.
    """
    if name == "fake:frail":
        return FakeEncoder(frail=True)
    if fake := _FAKE_ENCODER.fullmatch(name):
        return FakeEncoder(int(fake[2] or 64), late=bool(fake[1]))
    options = (options or ModelOptions()).unrounded
    path = _known(name, "encoder", options)
    card = known_as(name, path)
    prompts = card.prompts if card else NO_PROMPTS

    def in_openvino() -> BiEncoder:
        from models.openvino_runtime import OpenvinoEncoder

        return OpenvinoEncoder(name, path, options, prompts)

    def packed() -> BiEncoder:
        from models.packed_runtime import PackedEncoder

        return PackedEncoder(name, path, options, prompts)

    def in_torch() -> BiEncoder:
        from models.torch_runtime import TorchEncoder

        return TorchEncoder(name, path, options, prompts)

    return choose(name, options, {"openvino": in_openvino, "packed": packed, "torch": in_torch})


@_in_a_sentence()
def open_reranker(name: str, options: ModelOptions | None = None) -> Reranker:
    """A reranker, named as encoders are; `fake:backwards` puts the worst text first, `fake:slow` takes its time."""
    if _FAKE.fullmatch(name) or name in ("fake:backwards", "fake:slow", "fake:frail"):
        slow = 0.005 if name == "fake:slow" else 0.0
        return FakeReranker(backwards=name == "fake:backwards", slow=slow, frail=name == "fake:frail")
    options = options or ModelOptions()
    path = _known(name, "reranker", options)
    if is_late(path):
        refuse_but_torch(name, options, "late interaction")
        refuse_int8(name, options)
        from models.late import LateReranker

        return LateReranker(name, path, options)

    def in_openvino() -> Reranker:
        from models.openvino_runtime import OpenvinoReranker

        return OpenvinoReranker(name, path, options)

    def packed() -> Reranker:
        from models.packed_runtime import PackedReranker

        return PackedReranker(name, path, options)

    def in_torch() -> Reranker:
        from models.torch_runtime import TorchReranker

        return TorchReranker(name, path, options)

    return choose(name, options, {"openvino": in_openvino, "packed": packed, "torch": in_torch})


@_in_a_sentence()
def open_sparse(name: str, options: ModelOptions | None = None) -> SparseEncoder:
    """A sparse encoder: a folder or a hub name; `fake`, and `fake:lookup`, which reads no queries. None is embedded."""
    if _FAKE.fullmatch(name) or name == "fake:lookup":
        return FakeSparseEncoder(reads_queries=name != "fake:lookup")
    options = (options or ModelOptions()).unrounded
    path = _known(name, "sparse", options)
    card = known_as(name, path)
    refuse_but_torch(name, options, "a sparse encoder")
    check_folder(name, path, "sparse")  # here already: torch takes seconds to import
    from models.sparse import TorchSparseEncoder

    return TorchSparseEncoder(name, path, options, card.prompts if card else NO_PROMPTS)


def locate(name: str, kind: Kind, options: ModelOptions) -> Path:
    """The folder of a model that is named as above, fetched from the hub where need be."""
    if name == "embedded" and kind != "sparse":
        return _embedded(kind)
    if folder := _folder(name):
        return folder
    if _HUB_NAME.fullmatch(name) and name[0] not in ".~":
        return _fetch(name, options)
    embedded = "" if kind == "sparse" else " or `embedded`"
    raise ModelError(
        f"There is no {title(kind)} {name!r}: name an existing folder, a hub model (organisation/name){embedded}."
    )


def _known(name: str, kind: Kind, options: ModelOptions) -> Path:
    """The same for a model that is to be opened: what is known to stand in the way is said before it is fetched."""
    if not _folder(name):
        refuse(name, kind)
    return locate(name, kind, options)


def _folder(name: str) -> Path | None:
    """What lies on disk under a name; of some, as of those that are too long, the system does not even want to say."""
    with suppress(OSError, ValueError, RuntimeError):
        folder = Path(name).expanduser()
        return folder if name and folder.is_dir() else None
    return None


def _embedded(kind: Kind) -> Path:
    folder = _WEIGHTS / kind
    if not (folder / "config.json").is_file():
        raise ModelError(f"The embedded {kind} is missing from {folder}: install Winnow again, or name another {kind}.")
    return folder


def _fetch(name: str, options: ModelOptions) -> Path:
    # The hub library reads this once, when it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with _no_bars():
            folder = snapshot_download(
                name,
                cache_dir=options.cache,
                local_files_only=options.offline,
                allow_patterns=_WANTED_FILES,
                ignore_patterns=_UNWANTED_FILES,
            )
        return Path(folder)
    except LocalEntryNotFoundError as error:
        reason = "and asking the hub is switched off" if options.offline else "and the hub can't be reached"
        raise ModelError(f"{name} is not on this machine, {reason}: name a local folder or `embedded`.") from error
    except Exception as error:  # a connection that breaks raises what the library's own library has for that
        raise ModelError(f"{name} can't be fetched from the hub: {error}") from error


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
