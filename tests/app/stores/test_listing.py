"""What a page of documents, or of what failed, costs does not grow with the collection."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from app.stores import collections, documents, jobs, listing
from app.stores.sqlite import MIGRATIONS
from app.types import Chunk, Document, Recipe

STEPS = 10


def held(amount: int) -> tuple[apsw.Connection, int, int]:
    """So many documents of one job, the last of which failed; with the numbers of collection and job."""
    db = apsw.Connection(":memory:")
    for migration in MIGRATIONS:
        db.execute("--" + migration)
    collection = collections.insert(db, "default", "fake", "fake", Recipe(), 8, "print", "english").number
    job, _ = jobs.begin(db, collection)
    for number in range(amount):
        documents.put(db, collection, job, Document(f"d{number}", "text"), lambda _: [Chunk(0, 4, "text", 1)])
    db.execute("UPDATE documents SET state = iif(number < ?, 'live', 'failed')", (amount,))
    return db, collection, job


def steps(db: apsw.Connection, work: Callable[[], object]) -> int:
    """Of SQLite's machine, in tens."""
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    db.set_progress_handler(step, STEPS)
    work()
    db.set_progress_handler(None)
    return count


def test_a_page_costs_as_much_in_a_collection_of_any_size() -> None:
    costs = []
    for amount in (50, 2000):
        db, collection, _ = held(amount)
        found, more = listing.page(db, collection, None, 20, 10, texts=False)
        assert ([each.id for each in found], more) == ([f"d{number}" for number in range(20, 30)], True)
        costs.append(steps(db, lambda: listing.page(db, collection, None, 20, 10, texts=False)))  # noqa: B023
    assert costs[1] < 2 * costs[0]


def test_what_failed_of_a_job_is_told_without_a_look_at_what_did_not() -> None:
    costs = []
    for amount in (50, 2000):
        db, _, job = held(amount)
        assert list(jobs.failures(db, job)) == [f"d{amount - 1}"]
        costs.append(steps(db, lambda: jobs.failures(db, job)))  # noqa: B023
    assert costs[1] < 2 * costs[0]
