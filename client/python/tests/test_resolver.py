"""`Resolver`, of both kinds, against a registry in memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Union

import pytest

import hms_spine
from hms_spine import BreakerPolicy, CircuitOpen, NotFound, SpineError, Unavailable

from . import bridge
from .conftest import AnySpine
from .registry import Registry
from .wait import gives, until

AnyResolver = Union[hms_spine.Resolver, bridge.Resolver]

URL = "http://localhost:8002"
OTHER = "http://localhost:8004"
ID = "photo@localhost:8002"


@pytest.fixture
def resolver(spine: AnySpine) -> Iterator[AnyResolver]:
    spine.register("photo", URL)
    with spine.resolver("photo") as resolver:
        assert resolver.lookup() == URL
        yield resolver


def test_answers_without_asking_again(resolver: AnyResolver, registry: Registry) -> None:
    until(lambda: registry.waiting == 1)
    before = len(registry.requests)
    for _ in range(50):
        assert resolver.lookup() == URL
    assert len(registry.requests) == before


def test_hears_of_each_change(spine: AnySpine, resolver: AnyResolver, registry: Registry) -> None:
    registry.set_status(ID, "critical")
    until(lambda: gives(resolver.lookup) == "NonePasses")
    spine.register("photo", OTHER, version="v2")
    until(lambda: gives(resolver.lookup) == OTHER)
    assert resolver.lookup(version="v2") == OTHER
    spine.deregister("photo")
    until(lambda: gives(resolver.lookup) == "NotFound")
    assert resolver.instances() == ()
    spine.register("photo", OTHER)
    until(lambda: gives(resolver.lookup) == OTHER)


def test_goes_on_with_what_it_knows_while_no_server_has_a_leader(resolver: AnyResolver, registry: Registry) -> None:
    until(lambda: registry.waiting == 1)
    registry.down = True
    until(lambda: resolver.trouble)
    assert "No cluster leader" in str(resolver.trouble)
    assert resolver.lookup() == URL
    registry.down = False
    until(lambda: resolver.trouble is None)


def test_goes_on_with_what_it_knows_while_the_registry_is_gone(resolver: AnyResolver, registry: Registry) -> None:
    until(lambda: registry.waiting == 1)
    registry.close()
    until(lambda: resolver.trouble)
    assert resolver.lookup() == URL
    # It comes back without its data: the instances are those that it knows, none at first.
    returned = Registry(registry.port)
    until(lambda: gives(resolver.lookup) == "NotFound")
    hms_spine.Spine(returned.url).register("photo", OTHER)
    until(lambda: gives(resolver.lookup) == OTHER)
    returned.close()


def test_follows_at_another_server_when_one_dies(
    connect: Callable[..., AnySpine], registry: Registry, second: Registry
) -> None:
    hms_spine.Spine(registry.url).register("photo", URL)
    hms_spine.Spine(second.url).register("photo", OTHER)
    second.changed()
    with connect([registry.url, second.url]).resolver("photo") as resolver:
        assert resolver.lookup() == URL
        until(lambda: registry.waiting == 1)
        registry.down = True
        until(lambda: gives(resolver.lookup) == OTHER)
        assert resolver.trouble is None


def test_a_registry_never_reached_is_unavailable_until_it_is_there(
    connect: Callable[..., AnySpine], registry: Registry
) -> None:
    registry.down = True
    with connect(registry.url).resolver("photo") as resolver:
        with pytest.raises(Unavailable, match="nothing about 'photo'.*No cluster leader"):
            resolver.lookup()
        registry.down = False
        until(lambda: gives(resolver.lookup) == "NotFound")


def test_a_refusal_is_no_end_of_following(spine: AnySpine, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(registry, "answer", lambda *_: (403, b"Permission denied"))
        resolver = spine.resolver("photo")
        with pytest.raises(Unavailable, match="refused: 403 Permission denied"):
            resolver.lookup()
    until(lambda: gives(resolver.lookup) == "NotFound")
    resolver.close()


def test_what_nobody_foresaw_is_told_and_no_end_of_following(
    spine: AnySpine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("hms_spine.watch.instances_in", lambda _: 1 // 0)
        resolver = spine.resolver("photo")
        with pytest.raises(Unavailable, match="nothing about 'photo': ZeroDivisionError"):
            resolver.lookup()
    until(lambda: gives(resolver.lookup) == "NotFound")
    resolver.close()


def test_a_host_that_no_name_can_be_is_told(connect: Callable[..., AnySpine]) -> None:
    with connect("http://a..b:8500").resolver("photo") as resolver, pytest.raises(Unavailable, match="a..b|Unicode"):
        resolver.lookup()


def test_three_failed_calls_open_the_circuit_and_a_probe_closes_it(spine: AnySpine) -> None:
    spine.register("photo", URL)
    # Its rest is over at once: the next call is the probe.
    with spine.resolver("photo", breaker=BreakerPolicy(failures=3, rest=0.0)) as resolver:
        for _ in range(3):
            with pytest.raises(ConnectionError), resolver.call() as url:
                assert url == URL
                raise ConnectionError
        with resolver.call() as url:
            assert url == URL
        assert resolver.lookup() == URL


def test_an_open_circuit_stays_open_while_it_rests(resolver: AnyResolver) -> None:
    for _ in range(3):
        with pytest.raises(ConnectionError), resolver.call():
            raise ConnectionError
    with pytest.raises(CircuitOpen, match=r"'photo' temporarily unavailable \(3/3"), resolver.call():
        pass


def test_after_its_end_it_still_says_what_it_knew(spine: AnySpine, registry: Registry) -> None:
    spine.register("photo", URL)
    resolver = spine.resolver("photo")
    assert resolver.lookup() == URL
    until(lambda: registry.waiting == 1)
    resolver.close()
    resolver.close()
    if isinstance(resolver, hms_spine.Resolver):
        assert resolver.lookup() == URL
        assert not any(thread.name == "hms_spine: photo" for thread in threading.enumerate())


def test_an_end_before_the_first_answer_leaves_nobody_waiting(registry: Registry) -> None:
    registry.down = True
    resolver = hms_spine.Spine(registry.url).resolver("photo")
    resolver.close()
    with pytest.raises(Unavailable):
        resolver.lookup()


def test_an_empty_name_is_refused_here(spine: AnySpine, registry: Registry) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        spine.resolver("")
    assert registry.requests == []


def test_many_callers_share_one(resolver: AnyResolver) -> None:
    failures: list[BaseException] = []

    def caller() -> None:
        try:
            for _ in range(50):
                with resolver.call() as url:
                    assert url == URL
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=caller) for _ in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert failures == []


def test_a_fork_is_told_that_nobody_follows(registry: Registry) -> None:
    program = """
import os, sys
from hms_spine import Spine
with Spine(sys.argv[1]).resolver("photo") as resolver:
    child = os.fork()
    if child == 0:
        try:
            resolver.lookup()
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", program, registry.url]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "make a resolver after the fork" in ran.stdout


def test_not_found_and_unavailable_are_told_apart() -> None:
    assert not issubclass(NotFound, Unavailable)
    assert issubclass(Unavailable, SpineError)
