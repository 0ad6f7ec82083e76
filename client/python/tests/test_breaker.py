"""The breaker of one instance, by its own clock."""

from __future__ import annotations

import pytest

from hms_spine.breaker import Breaker, BreakerPolicy


def failing(breaker: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breaker.failed(breaker.begin(now), now)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(BreakerPolicy(failures=3, rest=30.0))


def test_three_failures_in_a_row_open_it(breaker: Breaker) -> None:
    failing(breaker, 2)
    assert breaker.is_closed
    failing(breaker, 1)
    assert not breaker.is_closed


def test_a_success_in_between_begins_the_row_anew(breaker: Breaker) -> None:
    failing(breaker, 2)
    breaker.succeeded(breaker.begin(0.0))
    failing(breaker, 2)
    assert breaker.is_closed


def test_it_rests_and_then_awaits_one_probe(breaker: Breaker) -> None:
    assert not breaker.awaits_probe(0.0), "closed, it needs none"
    failing(breaker, 3, now=100.0)
    assert not breaker.awaits_probe(129.9)
    assert breaker.awaits_probe(130.0)
    breaker.begin(130.0)
    assert not breaker.awaits_probe(130.0), "one at a time"


def test_a_probe_that_succeeds_closes_it(breaker: Breaker) -> None:
    failing(breaker, 3)
    breaker.succeeded(breaker.begin(30.0))
    failing(breaker, 2, now=30.0)
    assert breaker.is_closed, "closed as if nothing had been"


def test_a_probe_that_fails_opens_it_for_another_rest(breaker: Breaker) -> None:
    failing(breaker, 3)
    failing(breaker, 1, now=30.0)
    assert not breaker.awaits_probe(59.9)
    assert breaker.awaits_probe(60.0)


def test_a_probe_that_is_abandoned_lets_another_one_through(breaker: Breaker) -> None:
    failing(breaker, 3)
    breaker.abandoned(breaker.begin(30.0), 31.0)
    assert breaker.awaits_probe(31.0)


def test_a_probe_that_never_ends_is_lost_after_a_rest(breaker: Breaker) -> None:
    failing(breaker, 3)
    lost = breaker.begin(30.0)
    assert not breaker.awaits_probe(59.9)
    assert breaker.awaits_probe(60.0)
    probe = breaker.begin(60.0)
    breaker.succeeded(lost)
    assert not breaker.is_closed, "it had its time"
    breaker.succeeded(probe)
    assert breaker.is_closed


def test_calls_of_an_earlier_period_tell_nothing(breaker: Breaker) -> None:
    late = [breaker.begin(0.0) for _ in range(4)]
    failing(breaker, 3)
    breaker.succeeded(late[0])
    assert not breaker.is_closed, "a call that began before the failures does not close it"
    breaker.succeeded(breaker.begin(30.0))
    for period in late[1:]:
        breaker.failed(period, 30.0)
    assert breaker.is_closed, "nor do such calls open it again"


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"rest": -1.0}])
def test_a_policy_makes_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a breaker"):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]
