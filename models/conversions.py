"""Converted models on disk: found by what they were made from, checked before they are used, and made where missing.

An entry is a folder named by its key. It is written aside and renamed, so that it is whole or not there; a manifest of
checksums tells damage. With it a model opens without torch, transformers and sentence-transformers being imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from tokenizers import Tokenizer

from models.converted import Converted, Facts, Source
from models.folder import PRICE_FILE
from models.late_head import nearness_to_first, rounded
from models.network import Network
from models.proof import TOLERANCES, distance
from models.quiet_openvino import core, openvino
from models.runtimes import Unavailable
from models.tokens import TOKENISATION
from models.types import ModelOptions

log = structlog.get_logger()

CONVERSION = 3
"""Raise it when a change to this file, convert.py or first_token.py changes what is kept."""

_MAKERS = ("openvino", "torch", "transformers", "sentence-transformers", "tokenizers")
_SHAPING = {".json", ".txt", ".model", ".safetensors", ".jinja", ".metadata"}
_NETWORK, _TOKENIZER, _FACTS, _MANIFEST = "network.xml", "tokenizer.json", "facts.json", "manifest.json"
_UNUSED_SECONDS = 60 * 86400
_NAME = re.compile(r"[0-9a-f]{40}|new-\w+")


class _Damaged(Exception):
    """An entry that is not what was written."""


def converted(source: Source) -> Converted:
    """A model's conversion: the one that is kept, or one that is made now."""
    entry = home_of(source) / key_of(source)
    try:
        return _read(entry, entry.name)
    except FileNotFoundError:
        log.info("converting model for OpenVINO, once", model=source.name, kept_in=str(entry))
    except _Damaged as error:
        log.warning("converted model is damaged and made anew", model=source.name, folder=str(entry), reason=str(error))
    return _make(source, entry)


def home_of(source: Source) -> Path:
    """The folder of all entries."""
    return (source.options.conversions or user_folder()) / "openvino"


def key_of(source: Source) -> str:
    """A hash of all that an entry depends on; the CPU and the precision come in when it is compiled."""
    # More files than the fingerprint hashes: facts that torch reads off a model go into that by themselves.
    found = (file for file in source.path.rglob("*") if file.suffix in _SHAPING and file.name != PRICE_FILE)
    files = sorted(file for file in found if file.is_file())  # and no link to what a hub's cache has lost
    facts = [
        [CONVERSION, TOKENISATION, source.kind],
        [(maker, version(maker)) for maker in _MAKERS],
        [source.known, source.options.prompts.get(source.name, {})],
        [(str(file.relative_to(source.path)), _checksum(file)) for file in files],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def user_folder() -> Path:
    """Winnow's part of the user's cache folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow"
    except RuntimeError as error:
        raise Unavailable("there is no home folder to keep it in: set WINNOW_CONVERSIONS") from error


def check(network: Network, facts: Facts) -> None:
    """Refuses a network that says something else than torch did."""
    got, expected = network.run(facts.tokens())[:, : facts.dimensions], np.asarray(facts.expected, np.float32)
    far, most = [distance(got, expected)], TOLERANCES[network.precision]
    if facts.near:
        wholes = [rounded(states) for _, states in network.run_whole(facts.tokens())]
        far.append(float(np.abs(nearness_to_first(wholes) - facts.near).max()))
    if not all(each <= most for each in far):
        raise Unavailable(f"converted, it differs from torch by {max(far):.2g}, where {most:.2g} is allowed")


def _make(source: Source, entry: Path) -> Converted:
    from models.convert import convert  # with torch

    try:
        with _workplace(source.name, entry.parent) as fresh:
            _write(fresh, convert(source))
            (fresh / _MANIFEST).write_text(json.dumps(_manifest(fresh, entry.name)), encoding="utf-8")
            made = _read(fresh, entry.name)
            check(
                Network(made.network, made.facts.padding, made.facts.limit, ModelOptions(precision="float32")),
                made.facts,
            )
            if fresh.parent == entry.parent:
                _keep(fresh, entry)
            return made
    except (OSError, _Damaged) as error:
        raise Unavailable(f"its conversion can't be written: {error}") from error


def _write(folder: Path, made: Converted) -> None:
    """Fills an entry's folder, but for the manifest."""
    try:
        openvino.save_model(made.network, folder / _NETWORK, compress_to_fp16=False)
    except RuntimeError as error:
        raise Unavailable(f"its conversion can't be written: {error}") from error
    (folder / _TOKENIZER).write_text(made.tokenizer.to_str(), encoding="utf-8")
    (folder / _FACTS).write_text(json.dumps(asdict(made.facts)), encoding="utf-8")


@contextmanager
def _workplace(name: str, home: Path) -> Iterator[Path]:
    """A new folder beside the entries; where none can be made, one that no other start will find."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=home))
    except OSError as error:
        log.warning(
            "converted model can't be kept, every start converts anew",
            model=name,
            folder=str(home),
            reason=error.strerror,
            change="WINNOW_CONVERSIONS",
        )
        fresh = Path(tempfile.mkdtemp(prefix="winnow-"))
    try:
        yield fresh
    finally:
        # What is open stays readable; what was kept has moved away.
        shutil.rmtree(fresh, ignore_errors=True)


def _keep(fresh: Path, entry: Path) -> None:
    """Put a new entry in its place. Of two processes that make the same one, either's will do."""
    _sweep(entry.parent)
    if entry.exists():
        with suppress(OSError):
            entry.rename(fresh.with_name(f"{fresh.name}_old"))
    with suppress(OSError):
        fresh.rename(entry)
    shutil.rmtree(fresh.with_name(f"{fresh.name}_old"), ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what nobody has opened for long: other versions of a model, or of OpenVINO.

    By the wall clock, since no other outlives a process; where it jumps ahead, models are converted once more.
    """
    for each in home.iterdir():
        with suppress(OSError):
            if _NAME.fullmatch(each.name) and time.time() - each.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(each, ignore_errors=True)


def _read(folder: Path, key: str) -> Converted:
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        if json.loads((folder / _MANIFEST).read_bytes()) != _manifest(folder, key):
            raise _Damaged("its files are not those that its manifest names")
        facts = Facts(**json.loads((folder / _FACTS).read_bytes()))
        network = core().read_model(folder / _NETWORK)
        tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise _Damaged(str(error)) from error
    with suppress(OSError):
        os.utime(folder)
    return Converted(network, tokenizer, facts)


def _manifest(folder: Path, key: str) -> dict[str, Any]:
    """Whose entry it is, and a checksum of each file."""
    files = {file.name: _checksum(file) for file in sorted(folder.iterdir()) if file.name != _MANIFEST}
    return {"key": key, "files": files}


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
