from __future__ import annotations

from loadtest.fuzz import LATER, fuzz


def test_the_service_keeps_to_its_openapi() -> None:
    done = fuzz(seed=1, examples=4, phases=LATER)
    assert done.cases > 100
    assert not done.findings, done.findings
