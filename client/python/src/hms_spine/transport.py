"""HTTP to one of several servers, by the standard library alone.

Why no HTTP package: a registry client sits in every service of a fleet, next to whatever version of `requests` or
`httpx` that service needs, and it makes small calls of one kind. Why a connection for each call: nothing is shared
between threads or inherited over a fork, and a kept connection that the server closed meanwhile can't turn a good
call into an error. Proxy settings of the environment are not followed: a registry is reached directly.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .exceptions import SpineError, Unavailable

#: Seconds to wait for a connection: short, because the next server may answer.
CONNECT_TIMEOUT = 2.0

#: Bytes of an answer that are read at most; what is longer is refused, not cut.
ANSWER_BYTES_MAX = 64 * 1024 * 1024

_PIECE_BYTES = 64 * 1024

# A server answers 500 when it has no leader or doesn't know the outcome, 429 and 5xx from a proxy when it is
# overloaded or going down: another server may do better.
_TRY_ANOTHER = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """What a server said: any status below 500 except 429."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as a JSON document."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise SpineError(f"the registry answered something that is not JSON: {self.text()[:200]!r}") from error

    def text(self) -> str:
        """The body as text, for messages."""
        return self.body.decode("utf-8", "replace").strip()


class Transport:
    """A list of servers of one cluster, asked in turn until one answers.

    The server that answered last is asked first. Every request of this package gives the same result when it is sent
    twice, so all of them are repeated on the next server, writes too.
    """

    def __init__(self, urls: Sequence[str], timeout: float) -> None:
        """`timeout`: seconds to wait for the answer of one server."""
        if not urls:
            raise ValueError("at least one registry URL is needed")
        self._servers = [_Server.parse(url) for url in urls]
        self._timeout = timeout
        self._preferred = 0

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """The first usable answer. `path` is already percent-encoded."""
        target = path + ("?" + urlencode(query, quote_via=quote) if query else "")
        first, count = self._preferred, len(self._servers)
        failures = []
        for turn in range(count):
            position = (first + turn) % count
            server = self._servers[position]
            try:
                answer = server.request(method, target, body, self._timeout)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{server.url}: {error or type(error).__name__}")
                continue
            if answer.status in _TRY_ANOTHER:
                failures.append(f"{server.url}: {answer.status} {answer.text()[:200]}")
                continue
            self._preferred = position
            return answer
        raise Unavailable("no registry server could answer: " + "; ".join(failures))


@dataclass(frozen=True)
class _Server:
    url: str
    secure: bool
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, url: str) -> _Server:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a registry URL looks like http://HOST:PORT, not {url!r}")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(url, secure, parts.hostname, port, parts.path.rstrip("/"))

    def request(self, method: str, target: str, body: bytes | None, timeout: float) -> Answer:
        connection = self._connect()
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            headers = {"Accept": "application/json", "Connection": "close"}
            connection.request(method, self.prefix + target, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, self._read(response))
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        # In pieces: asked for all at once, old Pythons set the whole bound's memory aside for each answer.
        content = bytearray()
        while piece := response.read(_PIECE_BYTES):
            content += piece
            if len(content) > ANSWER_BYTES_MAX:
                raise SpineError(f"the answer of {self.url} is longer than {ANSWER_BYTES_MAX} bytes")
        return bytes(content)

    def _connect(self) -> http.client.HTTPConnection:
        if self.secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=CONNECT_TIMEOUT, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=CONNECT_TIMEOUT)
