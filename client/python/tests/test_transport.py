"""Several servers: who is asked, and what is said when none can answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hms_spine import NotFound, SpineError, Unavailable

from .conftest import AnySpine
from .registry import Registry

URL = "http://localhost:8001"


@pytest.fixture
def closed_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


Connect = Callable[..., AnySpine]


def test_the_next_server_answers_for_a_dead_one(connect: Connect, registry: Registry, closed_url: str) -> None:
    connect([closed_url, registry.url]).register("identity", URL)
    assert registry.keys["services/identity"][0] == URL.encode()


def test_the_next_server_answers_for_one_without_a_leader(
    connect: Connect, registry: Registry, second: Registry
) -> None:
    registry.down = True
    spine = connect([registry.url, second.url])
    spine.register("identity", URL)
    assert spine.lookup("identity") == URL
    assert len(registry.requests) == 1, "the server that answered last is asked first"


def test_a_refusal_is_an_answer(connect: Connect, registry: Registry, second: Registry) -> None:
    spine = connect([registry.url, second.url])
    with pytest.raises(SpineError, match="400"):
        spine.register("a", "http://h/" + "x" * 600)
    with pytest.raises(NotFound):
        spine.lookup("a")
    assert second.requests == []


def test_when_none_can_answer_each_is_named(connect: Connect, registry: Registry, closed_url: str) -> None:
    registry.down = True
    with pytest.raises(Unavailable) as caught:
        connect([closed_url, registry.url]).lookup("identity")
    assert f"{closed_url}: " in str(caught.value)
    assert f"{registry.url}: 500 No cluster leader" in str(caught.value)


def test_a_silent_server_is_left_after_the_timeout(connect: Connect, registry: Registry) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        spine = connect([url, registry.url], timeout=0.2)
        spine.register("identity", URL)
    assert spine.lookup("identity") == URL


def test_an_answer_that_is_not_json_is_an_error(
    connect: Connect, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "answer", lambda *_: (200, b"<html>"))
    with pytest.raises(SpineError, match="not JSON: '<html>'"):
        connect(registry.url).lookup("identity")


def test_an_answer_without_end_is_refused(
    connect: Connect, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hms_spine.transport.ANSWER_BYTES_MAX", 1000)
    monkeypatch.setattr(registry, "answer", lambda *_: (200, b" " * 1001))
    with pytest.raises(SpineError, match="longer than 1000 bytes"):
        connect(registry.url).lookup("identity")


@pytest.mark.parametrize("url", ["localhost:8500", "ftp://localhost", ""])
def test_what_is_not_a_url_is_refused_at_once(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="registry URL"):
        connect(url)


def test_no_url_is_refused_at_once(connect: Connect) -> None:
    with pytest.raises(ValueError, match="at least one"):
        connect([])


def test_a_path_before_v1_is_kept(connect: Connect, registry: Registry) -> None:
    with pytest.raises(SpineError, match="404"):
        connect(registry.url + "/mounted/").lookup("identity")
    assert registry.requests == ["GET /mounted/v1/health/service/identity"]


def test_the_environment_says_where_the_registry_is(registry: Registry) -> None:
    program = f"from hms_spine import Spine\nSpine().register('identity', {URL!r})"
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "REG_URL": registry.url}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert "services/identity" in registry.keys


def test_an_answer_that_breaks_off_is_none(connect: Connect, registry: Registry) -> None:
    registry.services["n1", "x"] = {"Name": "identity", "ID": "x", "Address": "h", "Port": 1}
    with Once(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[") as broken:
        assert connect([broken.url, registry.url]).lookup("identity") == "http://h:1"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, b"nonsense\r\n\r\n", b""])
def test_what_is_not_http_is_no_answer(connect: Connect, head: bytes) -> None:
    with Once(head) as broken, pytest.raises(Unavailable):
        connect(broken.url).lookup("identity")


def test_an_answer_in_chunks_is_one(connect: Connect) -> None:
    row = b'[{"Node": {"Node": "n", "Address": "a"}, "Service": {"ID": "i", "Port": 7}}]'
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, row[:5], len(row) - 5, row[5:])
    with Once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as server:
        assert connect(server.url).lookup("identity") == "http://a:7"


def test_an_answer_without_a_length_ends_with_the_connection(connect: Connect) -> None:
    with Once(b"HTTP/1.1 200 OK\r\n\r\n[]") as server, pytest.raises(NotFound):
        connect(server.url).lookup("identity", version="v1")


class Once:
    """A server that takes one request, sends these bytes, and hangs up."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(64 * 1024)
            connection.sendall(self._sent)

    def __enter__(self) -> Once:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
