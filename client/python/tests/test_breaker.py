"""The breaker of one instance, by its own clock."""

from __future__ import annotations

import pytest

from hms_spine.breaker import Breaker, BreakerPolicy


def failing(breaker: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breaker.failed(breaker.begin(), now)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(BreakerPolicy(failures=3, rest=30.0))


def test_three_failures_in_a_row_open_it(breaker: Breaker) -> None:
    failing(breaker, 2)
    assert breaker.admits(0.0)
    failing(breaker, 1)
    assert not breaker.admits(0.0)


def test_a_success_in_between_begins_the_row_anew(breaker: Breaker) -> None:
    failing(breaker, 2)
    breaker.succeeded(breaker.begin())
    failing(breaker, 2)
    assert breaker.admits(0.0)


def test_it_rests_and_then_admits_one_probe(breaker: Breaker) -> None:
    failing(breaker, 3, now=100.0)
    assert not breaker.admits(129.9)
    assert breaker.admits(130.0)
    breaker.begin()
    assert not breaker.admits(130.0), "one at a time"


def test_a_probe_that_succeeds_closes_it(breaker: Breaker) -> None:
    failing(breaker, 3)
    breaker.succeeded(breaker.begin())
    failing(breaker, 2, now=30.0)
    assert breaker.admits(30.0), "closed as if nothing had been"


def test_a_probe_that_fails_opens_it_for_another_rest(breaker: Breaker) -> None:
    failing(breaker, 3)
    failing(breaker, 1, now=30.0)
    assert not breaker.admits(59.9)
    assert breaker.admits(60.0)


def test_a_probe_that_is_abandoned_lets_another_one_through(breaker: Breaker) -> None:
    failing(breaker, 3)
    breaker.abandoned(breaker.begin())
    assert breaker.admits(30.0)


def test_calls_of_an_earlier_period_tell_nothing(breaker: Breaker) -> None:
    late = [breaker.begin() for _ in range(4)]
    failing(breaker, 3)
    breaker.succeeded(late[0])
    assert not breaker.admits(0.0), "a call that began before the failures does not close it"
    breaker.succeeded(breaker.begin())
    for period in late[1:]:
        breaker.failed(period, 30.0)
    assert breaker.admits(30.0), "nor do such calls open it again"


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"rest": -1.0}])
def test_a_policy_makes_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a breaker"):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]
