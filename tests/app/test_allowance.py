from __future__ import annotations

import pytest

from app.allowance import Allowance, Meter
from app.errors import Spent


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def allowance(clock: Clock) -> Allowance:
    return Allowance(600, clock)


def test_it_begins_full_fills_by_the_second_and_never_holds_more_than_a_minutes_worth(
    allowance: Allowance, clock: Clock
) -> None:
    allowance.take(600)
    assert (allowance.left(), allowance.wait(20)) == (0, 2)
    clock.now += 2
    assert (allowance.left(), allowance.wait(20)) == (20, 0)
    clock.now += 3600
    assert allowance.left() == 600


def test_what_was_set_aside_counts_until_it_is_given_back(allowance: Allowance) -> None:
    one, other = Meter(allowance), Meter(allowance)
    one.set_aside(400)
    assert other.left == 200
    with pytest.raises(Spent) as refused:
        other.set_aside(300)
    assert refused.value.retry_after == 10
    one.give_back(400)
    other.set_aside(300)


def test_what_is_read_counts_once_though_it_was_set_aside(allowance: Allowance) -> None:
    meter = Meter(allowance)
    meter.set_aside(400)
    meter.count(100)
    assert meter.left == 200
    meter.give_back(400)
    assert (meter.left, meter.read) == (500, 100)


def test_more_than_a_minutes_worth_is_let_in_when_it_is_full_and_leaves_a_debt(
    allowance: Allowance, clock: Clock
) -> None:
    meter = Meter(allowance)
    meter.pay(1800)
    assert (allowance.left(), meter.left) == (-1200, 0)
    with pytest.raises(Spent):
        Meter(allowance).pay(1)
    clock.now += 121
    Meter(allowance).pay(1)


def test_a_request_that_was_let_in_is_not_refused_halfway(allowance: Allowance) -> None:
    meter = Meter(allowance)
    meter.set_aside(1800)
    meter.set_aside(10)
    meter.count(10)
    meter.give_back(10)
    meter.count(500)
    meter.give_back(1800)
    assert (meter.read, allowance.left()) == (510, 90)


def test_in_the_long_run_no_more_is_read_than_was_allowed(allowance: Allowance, clock: Clock) -> None:
    read = 0
    for _ in range(600):
        clock.now += 1
        meter = Meter(allowance)
        try:
            meter.set_aside(70)
        except Spent:
            continue
        meter.count(90)
        meter.give_back(70)
        read += meter.read
    assert 600 * 10 <= read <= 600 + 600 * 10 + 90


def test_without_an_allowance_nothing_is_refused_and_all_is_counted() -> None:
    meter = Meter()
    meter.pay(10**9)
    assert (meter.left, meter.read) == (None, 10**9)
