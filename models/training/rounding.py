"""Fits a reranker for 8 bits: in what ranges it meets what is rounded, and what it costs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from models.batch import padded
from models.catalog import locate, open_reranker
from models.conversions import converted
from models.converted import Source
from models.eight_bits import watched
from models.folder import PRICE_FILE, RANGES_FILE, check_folder, hash_folder, read_blends
from models.quiet_openvino import core
from models.training.blend import beside, split
from models.training.card import add_to_card
from models.training.groups import Group, read_groups
from models.training.judge import Weights
from models.training.price import Price, price
from models.training.run import Plan, Run, write_whole
from models.training.settings import RoundingSettings
from models.training.watch import Watch
from models.types import NO_PROMPTS, ModelOptions, Reranker, Tokens

READ = 400
"""Passages that are enough to know the ranges of others by: sixty do nearly as well."""

FEWEST = 30
"""Ranges that were met in fewer would cut off too much of what others bring."""


def rounding_file(groups: Path, output: Path, settings: RoundingSettings, watch: Watch) -> Price:
    """Copies a reranker, with what a service needs to compute it in 8 bits and to know whether it should."""
    folder = locate(settings.reranker, "reranker", ModelOptions())
    check_folder(settings.reranker, folder, "reranker")
    run = Run(output, Plan.of("train rounding", [groups], {settings.reranker: hash_folder(folder, {})}, settings))
    rest, held_out = split(read_groups(groups), settings)

    def write(place: Path) -> Price:
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(PRICE_FILE, RANGES_FILE))
        weights = beside(read_blends(place).hybrid)
        found = write_rounding(place, rest, held_out or rest, weights, settings.threads, watch)
        add_to_card(place, output, run.plan, [f"Judged by {found.queries:,} groups: {found.told()}"])
        return found

    return run.finish(write)


def write_rounding(
    folder: Path, met: Sequence[Group], judged: Sequence[Group], weights: Weights, threads: int, watch: Watch
) -> Price:
    """Puts beside a model's weights its ranges in some groups, and the price in others."""
    with TemporaryDirectory() as conversions:
        options = ModelOptions("cpu", "float32", threads, "openvino", Path(conversions))
        if texts := _drawn(open_reranker(str(folder), options), met):
            network = converted(Source(str(folder), folder, "reranker", options, NO_PROMPTS)).network
            (folder / RANGES_FILE).write_bytes(save(ranges(network, texts, watch)))
        else:
            watch.say("There are too few passages to know its ranges by: in 8 bits it will be slower than it could be.")
        found = price(folder, judged, weights, options)
    write_whole(folder / PRICE_FILE, json.dumps(asdict(found)) + "\n")
    watch.say(found.told())
    return found


def ranges(network: Any, texts: Sequence[Tokens], watch: Watch) -> dict[str, NDArray[np.float32]]:
    """The lowest and the highest number at each place of what comes into each large layer, by the layers' names."""
    copy, names = watched(network)
    compiled = core().compile_model(copy, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request, own = compiled.create_infer_request(), len(network.outputs)
    with_types = any(each.any_name == "token_type_ids" for each in network.inputs)
    found: dict[str, NDArray[np.float32]] = {}
    for done, text in enumerate(texts, 1):
        request.infer(padded([text], 0, with_types=with_types))  # alone, so that nothing is filled up
        for at, name in enumerate(names, own):
            data = request.get_output_tensor(at).data
            rows = data.reshape(-1, data.shape[-1])
            met = [rows.min(axis=0), rows.max(axis=0)]
            before = found.get(name, np.stack(met))
            found[name] = np.stack([np.minimum(before[0], met[0]), np.maximum(before[1], met[1])])
        watch.advance("looking at ranges", done, len(texts))
    return found


def _drawn(reranker: Reranker, groups: Sequence[Group]) -> list[Tokens]:
    """Some of their pairs of query and passage; none where there are too few to say anything."""
    pairs = [(group.query, passage) for group in groups for passage in group.passages]
    chosen = random.Random(len(pairs)).sample(pairs, min(READ, len(pairs)) if len(pairs) >= FEWEST else 0)
    return [reranker.tokenize(query, [passage])[0] for query, passage in chosen]
