"""python -m models.training encoder | mine | reranker | blend: the commands that made the shipped models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from models.training.encoder import EncoderSettings, train_encoder
from models.training.mine import MiningSettings, load_encoder, mine, read_groups, write_groups
from models.training.pairs import read_pairs, read_passages, sample
from models.training.reranker import BlendSettings, RerankerSettings, fit_blend, split, train_reranker, write_blend

Settings = TypeVar("Settings", EncoderSettings, MiningSettings, RerankerSettings, BlendSettings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one of the commands."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="more than the idle cores makes it slower")
    commands = parser.add_subparsers(required=True)

    encoder = commands.add_parser("encoder", help="fine-tune a bi-encoder")
    encoder.set_defaults(run=_encoder)
    _add_paths(encoder, "pairs", "base", "output")
    _add_take(encoder)
    _add_settings(encoder, EncoderSettings)

    mining = commands.add_parser("mine", help="find hard negatives for a reranker")
    mining.set_defaults(run=_mine)
    _add_paths(mining, "pairs", "encoder", "output")
    _add_take(mining)
    mining.add_argument("--extra", type=Path, help="further passages, as JSON lines")
    _add_settings(mining, MiningSettings)

    reranker = commands.add_parser("reranker", help="train a cross-encoder on mined groups")
    reranker.set_defaults(run=_reranker)
    _add_paths(reranker, "groups", "base", "output")
    _add_settings(reranker, RerankerSettings)

    blend = commands.add_parser("blend", help="fit the blend for another encoder")
    blend.set_defaults(run=_blend)
    _add_paths(blend, "groups", "reranker", "encoder")
    _add_settings(blend, BlendSettings)
    return parser


def _add_settings(command: argparse.ArgumentParser, settings: type[Any]) -> None:
    for field in fields(settings):
        default: Any = field.default
        several = isinstance(default, tuple)
        kind = type(default[0] if several else default)
        flag = f"--{field.name.replace('_', '-')}"
        command.add_argument(flag, type=kind, default=default, nargs="+" if several else None)


def _add_paths(command: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        command.add_argument(name, type=Path)


def _add_take(command: argparse.ArgumentParser) -> None:
    command.add_argument("--take", nargs="+", required=True, type=_source_and_count, metavar="SOURCE=COUNT")


def _source_and_count(text: str) -> tuple[str, int]:
    source, _, count = text.partition("=")
    return source, int(count)


def _settings(kind: type[Settings], options: argparse.Namespace) -> Settings:
    return kind(**{field.name: _plain(getattr(options, field.name)) for field in fields(kind)})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _encoder(options: argparse.Namespace) -> None:
    settings = _settings(EncoderSettings, options)
    take = dict(options.take)
    pairs = sample(read_pairs(options.pairs, take), take, settings.seed)
    train_encoder(options.base, pairs, options.output, settings)


def _mine(options: argparse.Namespace) -> None:
    settings = _settings(MiningSettings, options)
    take = dict(options.take)
    every = read_pairs(options.pairs, take)
    extra = read_passages(options.extra, take) if options.extra else []
    groups = mine(sample(every, take, settings.seed), every, extra, load_encoder(options.encoder, settings), settings)
    print(f"{write_groups(groups, options.output)} groups")  # noqa: T201  # a command's answer


def _reranker(options: argparse.Namespace) -> None:
    settings = _settings(RerankerSettings, options)
    groups, _ = split(read_groups(options.groups), settings.held_out, settings.seed)
    train_reranker(options.base, groups, options.output, settings)


def _blend(options: argparse.Namespace) -> None:
    settings = _settings(BlendSettings, options)
    _, held_out = split(read_groups(options.groups), settings.held_out, settings.seed)
    encoder = SentenceTransformer(str(options.encoder), device="cpu")
    write_blend(options.reranker, fit_blend(CrossEncoder(str(options.reranker), device="cpu"), encoder, held_out))


if __name__ == "__main__":
    main()
