from __future__ import annotations

from itertools import cycle
from typing import Any

import httpx
import pytest

from loadtest import limits
from loadtest.limits import Service, measure_deadlines
from loadtest.load import Answer, Load


async def test_a_search_that_failed_was_not_answered_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = Answer("a", "answered", 0.2, ("late",))
    failed = Answer("a", "failed", 0.01, trouble="500: it broke")

    async def closed_loop(*given: Any) -> Load:
        return Load((late, failed, failed, failed), 1.0)

    monkeypatch.setattr(limits, "closed_loop", closed_loop)
    answers = httpx.MockTransport(lambda request: httpx.Response(200, json={"reranked": 50}))
    async with httpx.AsyncClient(transport=answers, base_url="http://localhost") as client:
        await measure_deadlines(Service(client, cycle(["a"])), 1.0, 4)
    told = capsys.readouterr().out
    assert "1 searches with deadline_ms=100: p50 200 ms, p99 200, most 200; 0.0% in time, 100.0% say" in told
    assert "3 failed" in told
