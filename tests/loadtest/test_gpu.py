"""That the measurement of a GPU runs through; on a CPU, where its figures mean nothing."""

from __future__ import annotations

import re

import pytest

from loadtest import gpu

FEW = ["--device=cpu", "--pairs=3", "--repetitions=1", "--batches", "3", "--precisions", "bfloat16"]
SMALL = ["--layers=1", "--hidden=64"]


def test_every_way_to_rerank_is_measured_for_both_models(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*FEW, *SMALL])
    printed = capsys.readouterr().out
    assert printed.startswith("No GPU: these figures say nothing of one")
    _, embedded, random = printed.split("## ")
    for part in (embedded, random):
        table = dict(re.findall(r"^\| (winnow.+?|sentence.+?) \| (\d+) \|", part, re.M))
        assert list(table) == [
            "winnow, packed",
            "winnow, packed, tokenized before",
            "winnow, torch",
            "winnow, torch, tokenized before",
            "sentence-transformers, bfloat16, 3 at once",
        ]
        assert re.search(r"computes [\d.]+ TFLOP/s, \d+% of the [\d.]+", part)
        steps = re.findall(r"^\| (.+) \| [\d.]+ \|$", part.partition("| step | ms |")[2], re.M)
        assert [step.split(",")[0].split(":")[0] for step in steps] == [
            "tokenize", "pack", "copy", "compute", "as served", "as served",
        ]  # fmt: skip


def test_a_device_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device=cuda:99"])
    assert "choose `auto` or `cpu`" in capsys.readouterr().err
