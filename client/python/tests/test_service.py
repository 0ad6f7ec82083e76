"""One service as a resolver knows it: choice, breakers, and what the registry's news do to them. No sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest

from hms_spine import BreakerPolicy, CircuitOpen, NonePasses, NotFound, SpineError, Unavailable
from hms_spine.instance import Check, Instance
from hms_spine.service import Service


class Clock:
    """Seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(clock: Clock) -> Service:
    return Service("photo", BreakerPolicy(failures=3, rest=30.0), clock)


def instance(port: int, *, passing: bool = True, weight: int = 1, version: str | None = None) -> Instance:
    url = f"http://h:{port}"
    return Instance("n1", f"photo@h:{port}", url, version, (), weight, (Check(passing, 3),))


def call(service: Service, error: BaseException | None = None) -> str:
    """One call that ends like that; gives its URL, or why there was none."""
    url = ""
    try:
        with service.call() as url:
            if error:
                raise error
    except CircuitOpen as refused:
        return str(refused)
    except BaseException as raised:
        assert raised is error
    return url


def test_three_failed_calls_open_the_circuit_of_the_only_instance(service: Service) -> None:
    service.learn([instance(1)])
    for _ in range(3):
        assert call(service, OSError()) == "http://h:1"
    assert call(service) == "'photo' temporarily unavailable (3/3 failures)"
    with pytest.raises(CircuitOpen):
        service.choose()


def test_a_probe_closes_it(service: Service, clock: Clock) -> None:
    service.learn([instance(1)])
    for _ in range(3):
        call(service, OSError())
    clock.now += 30.0
    with service.call() as url:
        assert url == "http://h:1"
        with pytest.raises(CircuitOpen):
            service.choose()
    assert service.choose().url == url


def test_the_others_take_the_share_of_one_that_fails(service: Service, clock: Clock) -> None:
    service.learn([instance(1), instance(2)])
    _fail_first(service)
    assert {call(service) for _ in range(40)} == {"http://h:2"}
    clock.now += 30.0
    assert {call(service) for _ in range(40)} == {"http://h:1", "http://h:2"}


def test_the_next_call_is_the_probe_whatever_the_weights(service: Service, clock: Clock) -> None:
    service.learn([instance(1), instance(2)])
    _fail_first(service)
    service.learn([instance(1, weight=1), instance(2, weight=60_000)])
    clock.now += 30.0
    with service.call() as probed:
        assert probed == "http://h:1"
        assert call(service) == "http://h:2", "one at a time"


def test_a_probe_that_never_ends_keeps_nobody_out(service: Service, clock: Clock) -> None:
    service.learn([instance(1)])
    for _ in range(3):
        call(service, OSError())
    clock.now += 30.0
    with service.call() as hung:
        assert call(service).startswith("'photo'")
        clock.now += 30.0
        assert call(service) == hung
    assert call(service) == hung


def test_a_lookup_tells_nothing_and_is_no_probe(service: Service, clock: Clock) -> None:
    service.learn([instance(1), instance(2)])
    _fail_first(service)
    clock.now += 30.0
    assert {service.choose().url for _ in range(20)} == {"http://h:2"}
    service.learn([instance(1)])
    assert {service.choose().url for _ in range(20)} == {"http://h:1"}, "where there is no other"


def _fail_first(service: Service) -> None:
    """Opens the circuit of the first instance."""
    for _ in range(40):
        with suppress(OSError), service.call() as url:
            if url == "http://h:1":
                raise OSError


def test_checks_that_fail_are_told_apart_from_calls_that_fail(service: Service) -> None:
    service.learn([instance(1, passing=False)])
    with pytest.raises(NonePasses, match=r"'photo' temporarily unavailable \(3/3 failures\)"):
        service.choose()
    service.learn([instance(1)])
    for _ in range(3):
        call(service, OSError())
    with pytest.raises(CircuitOpen) as refused:
        service.choose()
    assert type(refused.value) is CircuitOpen


def test_an_open_circuit_does_not_send_calls_to_where_none_should_go(service: Service) -> None:
    service.learn([instance(1), instance(2, weight=0)])
    for _ in range(3):
        call(service, OSError())
    assert call(service) == "'photo' temporarily unavailable (3/3 failures)"


def test_a_check_that_passes_again_closes_it(service: Service) -> None:
    service.learn([instance(1)])
    for _ in range(3):
        call(service, OSError())
    service.learn([instance(1)])
    assert call(service).startswith("'photo'"), "that it still passes is no news"
    service.learn([instance(1, passing=False)])
    service.learn([instance(1)])
    assert call(service) == "http://h:1"


def test_an_instance_that_left_and_came_back_begins_anew(service: Service) -> None:
    service.learn([instance(1)])
    for _ in range(3):
        call(service, OSError())
    service.learn([])
    service.learn([instance(1)])
    assert call(service) == "http://h:1"


@pytest.mark.parametrize("told_nothing", [KeyboardInterrupt, asyncio.CancelledError])
def test_a_cancelled_call_says_nothing_about_the_instance(service: Service, told_nothing: type[BaseException]) -> None:
    service.learn([instance(1)])
    for _ in range(5):
        assert call(service, told_nothing()) == "http://h:1"


def test_weights_versions_and_health_are_obeyed(service: Service) -> None:
    service.learn([instance(1, weight=80, version="v1"), instance(2, weight=20, version="v2")])
    drawn = Counter(service.choose().url for _ in range(400))
    assert abs(drawn["http://h:1"] - 320) <= 24  # 3 sigma of 400 draws at 0.8
    assert {service.choose("v2").url for _ in range(20)} == {"http://h:2"}
    with pytest.raises(NotFound, match="no instance of 'photo' with version 'v3'"):
        service.choose("v3")
    service.learn([instance(1, passing=False, version="v1"), instance(2, version="v2")])
    assert {service.choose().url for _ in range(20)} == {"http://h:2"}
    with pytest.raises(CircuitOpen):
        service.choose("v1")


def test_what_was_told_last_is_used_while_the_registry_is_away(service: Service) -> None:
    service.learn([instance(1)])
    service.lost(SpineError("away"))
    assert service.choose().url == "http://h:1"
    assert str(service.trouble) == "away"
    service.learn([instance(2)])
    assert service.choose().url == "http://h:2"
    assert service.trouble is None


def test_nothing_told_is_not_the_same_as_nobody_there(service: Service) -> None:
    service.lost(SpineError("connection refused"))
    with pytest.raises(Unavailable, match="nothing about 'photo': connection refused"):
        service.choose()
    service.learn([])
    with pytest.raises(NotFound, match="no instance of 'photo' is registered"):
        service.choose()
