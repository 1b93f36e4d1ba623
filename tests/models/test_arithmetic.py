"""That the precision is chosen by what is faster here, and not by what the CPU says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from models import arithmetic, torch_device
from models.arithmetic import computes_bfloat16, prefers_bfloat16, seconds
from models.catalog import open_reranker
from models.network import Network
from models.types import ModelOptions


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    prefers_bfloat16.cache_clear()
    yield
    prefers_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("has_it", "bf16", "f32", "chosen"),
    [(True, 1.0, 2.0, True), (True, 2.0, 1.0, False), (False, 1.0, 2.0, False)],
)
def test_bfloat16_is_taken_where_it_is_there_and_faster(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, bf16: float, f32: float, chosen: bool
) -> None:
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda: has_it)
    monkeypatch.setattr(arithmetic, "seconds", {"bf16": bf16, "f32": f32}.__getitem__)
    assert prefers_bfloat16() is chosen


@pytest.mark.skipif(not computes_bfloat16(), reason="this CPU does not compute in bfloat16")
@pytest.mark.parametrize(("faster", "precision"), [("bf16", "bfloat16"), ("f32", "float32")])
def test_models_are_opened_in_what_is_faster(monkeypatch: pytest.MonkeyPatch, faster: str, precision: str) -> None:
    monkeypatch.setattr(arithmetic, "seconds", lambda hint: 1.0 if hint == faster else 2.0)
    opened = open_reranker("embedded", ModelOptions(device="cpu", runtime="openvino"))
    network: Network = vars(opened)["_network"]
    assert network.precision == precision


def test_products_take_time_in_either() -> None:
    assert seconds("f32") > 0
    assert seconds("bf16") > 0


@pytest.mark.parametrize(("faster", "chosen"), [(torch.bfloat16, True), (torch.float32, False)])
def test_torch_chooses_likewise_on_a_cpu(monkeypatch: pytest.MonkeyPatch, faster: torch.dtype, chosen: bool) -> None:
    monkeypatch.setattr(torch_device, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(torch_device, "_seconds", lambda kind: 1.0 if kind is faster else 2.0)
    cpu, options = torch.device("cpu"), ModelOptions(runtime="torch")
    assert torch_device.wants_bfloat16(options, cpu) is chosen
    assert torch_device.wants_bfloat16(replace(options, precision="bfloat16"), cpu)
    assert not torch_device.wants_bfloat16(replace(options, precision="float32"), cpu)
    assert torch_device.prefers_bfloat16(torch.device("cuda"))
