"""The readers-writer lock: who waits for whom."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from time import monotonic, sleep

from app.stores.lock import SharedLock

SOON = 5.0


def started(work: Thread) -> Thread:
    work.start()
    return work


def test_readers_share() -> None:
    lock, meeting = SharedLock(), Barrier(8)

    def read() -> None:
        with lock.shared():
            meeting.wait(SOON)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(read) for _ in range(8)]:
            done.result()


def test_a_writer_is_alone() -> None:
    lock, inside, clashes = SharedLock(), [0], [0]
    stop = monotonic() + 0.5

    def write() -> None:
        while monotonic() < stop:
            with lock.exclusive():
                inside[0] += 1
                clashes[0] += inside[0] != 1
                inside[0] -= 1

    def read() -> None:
        while monotonic() < stop:
            with lock.shared():
                clashes[0] += inside[0] != 0

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(work) for work in (write, write, read, read, read, read)]:
            done.result()
    assert clashes == [0]


def test_a_stream_of_readers_does_not_starve_a_writer() -> None:
    lock, stop, writes = SharedLock(), Event(), 0

    def read() -> None:
        while not stop.is_set():
            with lock.shared():
                sleep(0.002)

    readers = [started(Thread(target=read)) for _ in range(6)]
    ends = monotonic() + SOON
    while writes < 20 and monotonic() < ends:
        with lock.exclusive():
            writes += 1
    stop.set()
    for reader in readers:
        reader.join()
    assert writes == 20


def test_a_reader_waits_for_one_writer_at_most() -> None:
    """A writer who comes again and again, like a long apply, leaves the waiting in between any two turns."""
    lock, stop = SharedLock(), Event()
    turns, waits = [0], []

    def write() -> None:
        while not stop.is_set():
            with lock.exclusive():
                turns[0] += 1
                sleep(0.001)

    writer = started(Thread(target=write))
    for _ in range(100):
        before = turns[0]
        with lock.shared():
            waits.append(turns[0] - before)
    stop.set()
    writer.join()
    # One turn may begin and one end between the look at the counter and the wait.
    assert max(waits) <= 2


def test_the_lock_is_free_again_after_an_error() -> None:
    lock = SharedLock()
    for side in (lock.shared, lock.exclusive, lock.shared, lock.exclusive):
        try:
            with side():
                raise KeyError
        except KeyError:
            pass
    with lock.exclusive():
        pass
