"""That the precision is chosen by what is faster here, and not by what the CPU says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from models import arithmetic, torch_device
from models.arithmetic import computes_bfloat16, prefers_bfloat16, prefers_eight_bits, seconds
from models.catalog import open_encoder
from models.types import ModelOptions, Precision


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    for each in (prefers_bfloat16, prefers_eight_bits):
        each.cache_clear()
    yield
    for each in (prefers_bfloat16, prefers_eight_bits):
        each.cache_clear()


@pytest.mark.parametrize(
    ("has_it", "bf16", "f32", "chosen"),
    [(True, 1.0, 2.0, True), (True, 2.0, 1.0, False), (False, 1.0, 2.0, False)],
)
def test_bfloat16_is_taken_where_it_is_there_and_faster(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, bf16: float, f32: float, chosen: bool
) -> None:
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda: has_it)
    monkeypatch.setattr(arithmetic, "seconds", {"bfloat16": bf16, "float32": f32}.__getitem__)
    assert prefers_bfloat16() is chosen


@pytest.mark.skipif(not computes_bfloat16(), reason="this CPU does not compute in bfloat16")
@pytest.mark.parametrize("faster", ["bfloat16", "float32"])
def test_models_are_opened_in_what_is_faster(monkeypatch: pytest.MonkeyPatch, faster: Precision) -> None:
    monkeypatch.setattr(arithmetic, "seconds", lambda precision: 1.0 if precision == faster else 2.0)
    assert open_encoder("embedded", ModelOptions(device="cpu", runtime="openvino")).precision == faster


@pytest.mark.parametrize(("int8", "chosen"), [(0.7, True), (0.9, False)])
def test_eight_bits_are_taken_where_they_save_a_good_deal_over_the_better_of_the_others(
    monkeypatch: pytest.MonkeyPatch, int8: float, chosen: bool
) -> None:
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(arithmetic, "seconds", {"bfloat16": 1.0, "float32": 3.0, "int8": int8}.__getitem__)
    assert prefers_eight_bits() is chosen


def test_eight_bits_are_left_alone_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(precision: Precision) -> float:
        if precision == "int8":
            raise RuntimeError("no such property")
        return 1.0

    monkeypatch.setattr(arithmetic, "seconds", refuse)
    assert not prefers_eight_bits()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_products_take_time_in_each(precision: Precision) -> None:
    assert seconds(precision) > 0


@pytest.mark.parametrize(("faster", "chosen"), [(torch.bfloat16, True), (torch.float32, False)])
def test_torch_chooses_likewise_on_a_cpu(monkeypatch: pytest.MonkeyPatch, faster: torch.dtype, chosen: bool) -> None:
    monkeypatch.setattr(torch_device, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(torch_device, "_seconds", lambda kind: 1.0 if kind is faster else 2.0)
    cpu, options = torch.device("cpu"), ModelOptions(runtime="torch")
    assert torch_device.wants_bfloat16(options, cpu) is chosen
    assert torch_device.wants_bfloat16(replace(options, precision="bfloat16"), cpu)
    assert not torch_device.wants_bfloat16(replace(options, precision="float32"), cpu)
    assert torch_device.prefers_bfloat16(torch.device("cuda"))
