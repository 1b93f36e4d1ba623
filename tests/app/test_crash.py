"""kill -9 at random moments: what was acknowledged is found afterwards, and nothing is half there."""

from __future__ import annotations

import random
from pathlib import Path
from time import sleep

from loadtest import kills
from loadtest.kills import SETTINGS, SPARING, Trial
from loadtest.ledger import Ledger, bodies
from loadtest.process import Process

KILLS = 20
SEED = 20_26


def test_what_was_acknowledged_survives_kill_9_at_twenty_random_moments(tmp_path: Path) -> None:
    """In short what `python -m loadtest.kills` does at length."""
    assert kills.run(tmp_path, KILLS, SEED, print) > KILLS


def test_so_it_does_where_indexes_keep_less_than_whole_vectors(tmp_path: Path) -> None:
    """Their snapshots are put together with the truth."""
    assert kills.run(tmp_path, KILLS // 2, SEED, print, SPARING) > KILLS // 2


def test_so_it_does_while_models_are_switched_to_and_back(tmp_path: Path) -> None:
    """And both the collection and its standby have it."""
    assert kills.run(tmp_path, KILLS // 2, SEED, print, switching=True) > KILLS // 2


def test_a_kill_while_starting_loses_nothing(tmp_path: Path) -> None:
    ledger = Ledger("d", {f"d{i}": 1 for i in range(300)})
    with Process(tmp_path, **SETTINGS) as service:
        service.await_ready()
        sent = {"documents": bodies(ledger.held), "wait": False}
        assert service.client.post("/ingest", json=sent).status_code == 202
        for pause in (0.3, 0.6, 0.9, 1.2):
            service.kill()
            service.start()
            sleep(pause)
        trial = Trial(service, tmp_path, [ledger])
        trial.await_settled()
        trial.check(random.Random(SEED))
