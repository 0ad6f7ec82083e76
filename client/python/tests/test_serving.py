"""`Spine.serving`, of both kinds: registered for as long as a block runs."""

from __future__ import annotations

import threading

import pytest

from hms_spine import SpineError
from hms_spine.serving import Rhythm

from .conftest import AnySpine
from .registry import Registry
from .wait import until

URL = "http://localhost:5002"
KEY = "services/email-svc"
BEAT = "PUT /v1/agent/service/register"


@pytest.fixture(autouse=True)
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "registry" in request.fixturenames:
        for name in ("FIRST", "REPEAT", "RETRY"):
            monkeypatch.setattr(f"hms_spine.serving.{name}_INTERVAL", 0.01)


def test_registers_repeats_and_leaves(spine: AnySpine, registry: Registry) -> None:
    with spine.serving("email-svc", URL, check=False, version="v1"):
        assert spine.lookup("email-svc", version="v1") == URL
        until(lambda: registry.requests.count(BEAT) >= 3)
        writes = [request for request in registry.requests if request.startswith("PUT /v1/kv/")]
        assert len(writes) == 1, "the key is written once"
    assert registry.services == {}
    assert registry.keys == {}


def test_leaves_when_the_block_fails(spine: AnySpine, registry: Registry) -> None:
    with pytest.raises(KeyError), spine.serving("email-svc", URL):
        raise KeyError
    assert registry.services == {}


def test_comes_back_to_a_registry_that_lost_its_data(spine: AnySpine, registry: Registry) -> None:
    with spine.serving("email-svc", URL):
        registry.services.clear()
        registry.keys.clear()
        until(lambda: registry.services and registry.keys.get(KEY))
        assert registry.keys[KEY][0] == URL.encode()


def test_leaves_the_key_to_another_instance(spine: AnySpine, registry: Registry) -> None:
    with spine.serving("email-svc", URL):
        spine.register("email-svc", "http://localhost:5003")
        before = registry.requests.count(BEAT)
        until(lambda: registry.requests.count(BEAT) >= before + 3)
        assert registry.keys[KEY][0] == b"http://localhost:5003"


def test_outlives_a_registry_that_is_away(spine: AnySpine, registry: Registry) -> None:
    with spine.serving("email-svc", URL):
        registry.down = True
        registry.services.clear()
        before = len(registry.requests)
        until(lambda: len(registry.requests) >= before + 3)
        registry.down = False
        until(lambda: registry.services)
        registry.down = True
    # The registry was away at the end as well: that is its check's business.


def test_outlives_what_nobody_foresaw(spine: AnySpine, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with spine.serving("email-svc", URL):
        repeats: list[object] = []

        def failing(registration: object) -> None:
            repeats.append(registration)
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr("hms_spine.operations.repeat", failing)
            until(lambda: len(repeats) >= 2)
        registry.services.clear()
        until(lambda: registry.services)


def test_a_registration_that_is_refused_is_told_at_once(spine: AnySpine, registry: Registry) -> None:
    with pytest.raises(SpineError, match="value is too long"), spine.serving("a", "http://h/" + "x" * 600):
        pytest.fail("not served")


def test_does_not_wait_for_a_registry_that_is_away_at_its_start(spine: AnySpine, registry: Registry) -> None:
    registry.down = True
    with spine.serving("email-svc", URL):
        assert registry.services == {}
        registry.down = False
        until(lambda: registry.services and registry.keys.get(KEY))
    assert registry.services == {}


def test_a_repeat_under_way_does_not_bring_back_what_left(
    spine: AnySpine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeats, left = threading.Event(), threading.Event()
    honest = registry.answer

    def slow(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if f"{method} {target}" == BEAT and registry.requests.count(BEAT) == 1:
            repeats.set()
            left.wait(0.2)  # whoever leaves meanwhile has to wait for this repeat, so nobody does
        answer = honest(method, target, body)
        if target == "/v1/catalog/deregister":
            left.set()
        return answer

    monkeypatch.setattr(registry, "answer", slow)
    with spine.serving("email-svc", URL):
        assert repeats.wait(30.0)
    until(lambda: registry.requests.count(BEAT) >= 2)
    assert registry.services == {}


def test_repeats_itself_soon_twice_and_then_now_and_then() -> None:
    rhythm, pauses = Rhythm(), []
    for _ in range(4):
        pauses.append(rhythm.pause)
        rhythm.repeated()
    assert pauses == [3.0, 3.0, 10.0, 10.0]
    rhythm.failed()
    assert rhythm.pause == 1.0
    rhythm.repeated()
    assert rhythm.pause == 10.0
