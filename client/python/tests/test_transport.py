"""Several servers: who is asked, and what is said when none can answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hms_spine import NotFound, Spine, SpineError, Unavailable

from .registry import Registry

URL = "http://localhost:8001"


@pytest.fixture
def second() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.close()


@pytest.fixture
def closed_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def test_the_next_server_answers_for_a_dead_one(registry: Registry, closed_url: str) -> None:
    Spine([closed_url, registry.url]).register("identity", URL)
    assert registry.keys["services/identity"][0] == URL.encode()


def test_the_next_server_answers_for_one_without_a_leader(registry: Registry, second: Registry) -> None:
    registry.down = True
    spine = Spine([registry.url, second.url])
    spine.register("identity", URL)
    assert spine.lookup("identity") == URL
    assert len(registry.requests) == 1, "the server that answered last is asked first"


def test_a_refusal_is_an_answer(registry: Registry, second: Registry) -> None:
    spine = Spine([registry.url, second.url])
    with pytest.raises(SpineError, match="400"):
        spine.register("a", "http://h/" + "x" * 600)
    with pytest.raises(NotFound):
        spine.lookup("a")
    assert second.requests == []


def test_when_none_can_answer_each_is_named(registry: Registry, closed_url: str) -> None:
    registry.down = True
    with pytest.raises(Unavailable) as caught:
        Spine([closed_url, registry.url]).lookup("identity")
    assert f"{closed_url}: " in str(caught.value)
    assert f"{registry.url}: 500 No cluster leader" in str(caught.value)


def test_a_silent_server_is_left_after_the_timeout(registry: Registry) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        spine = Spine([url, registry.url], timeout=0.2)
        spine.register("identity", URL)
    assert spine.lookup("identity") == URL


def test_an_answer_that_is_not_json_is_an_error(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "answer", lambda *_: (200, b"<html>"))
    with pytest.raises(SpineError, match="not JSON: '<html>'"):
        Spine(registry.url).lookup("identity")


def test_an_answer_without_end_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hms_spine.transport.ANSWER_BYTES_MAX", 1000)
    monkeypatch.setattr(registry, "answer", lambda *_: (200, b" " * 1001))
    with pytest.raises(SpineError, match="longer than 1000 bytes"):
        Spine(registry.url).lookup("identity")


@pytest.mark.parametrize("url", ["localhost:8500", "ftp://localhost", ""])
def test_what_is_not_a_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="registry URL"):
        Spine(url)


def test_no_url_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Spine([])


def test_a_path_before_v1_is_kept(registry: Registry) -> None:
    with pytest.raises(SpineError, match="404"):
        Spine(registry.url + "/mounted/").lookup("identity")
    assert registry.requests == ["GET /mounted/v1/health/service/identity"]


def test_the_environment_says_where_the_registry_is(registry: Registry) -> None:
    program = f"from hms_spine import Spine\nSpine().register('identity', {URL!r})"
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "REG_URL": registry.url}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert "services/identity" in registry.keys
