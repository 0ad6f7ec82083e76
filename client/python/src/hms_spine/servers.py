"""The servers of a cluster: their addresses, and in which order they are asked."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from .exceptions import Unavailable
from .message import Answer, Request

# A server answers 500 when it has no leader or doesn't know the outcome, 429 and 5xx from a proxy when it is
# overloaded or going down: another server may do better.
_TRY_ANOTHER = frozenset({429, 500, 502, 503, 504})

# A server may answer a query that waits later than it was asked to, by up to a sixteenth, so that not all wake together.
_LATE_SHARE = 1 / 16


@dataclass(frozen=True)
class Server:
    """Where one server is reached."""

    url: str
    secure: bool
    host: str
    port: int
    #: The path under which the API lies, without a slash at its end.
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Server:
        """From `http://HOST:PORT`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a registry URL looks like http://HOST:PORT, not {url!r}")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(url, secure, parts.hostname, port, parts.path.rstrip("/"))


class Servers:
    """All servers that a client was told, and the one that answered last: it is asked first."""

    def __init__(self, urls: str | Sequence[str], timeout: float) -> None:
        """`timeout`: seconds to wait for the answer of one server, beyond those that a query asks it to wait."""
        urls = [urls] if isinstance(urls, str) else urls
        if not urls:
            raise ValueError("at least one registry URL is needed")
        self._all = [Server.parse(url.rstrip("/")) for url in urls]
        self._timeout = timeout
        self._preferred = 0

    def round(self) -> Round:
        """Every server once, beginning with the one that answered last."""
        first = self._preferred
        return Round(self, self._all[first:] + self._all[:first])

    def prefer(self, server: Server) -> None:
        """Begin with this one from now on."""
        self._preferred = self._all.index(server)

    def timeout(self, request: Request) -> float:
        """Seconds after which a server that says nothing is given up."""
        return self._timeout + request.wait * (1 + _LATE_SHARE)


class Round:
    """One request on its way from server to server.

    Every request of this package gives the same result when it is sent twice, so all of them are repeated on the next
    server, writes too.
    """

    def __init__(self, servers: Servers, turns: Sequence[Server]) -> None:
        """`turns`: whom to ask, in this order."""
        self._servers = servers
        self._turns = turns
        self._failures: list[str] = []

    def __iter__(self) -> Iterator[Server]:
        return iter(self._turns)

    def settled_by(self, server: Server, answer: Answer) -> bool:
        """Whether this is the answer to give to the caller; if not, the next server is to be asked."""
        if answer.status in _TRY_ANOTHER:
            self._failures.append(f"{server.url}: {answer.status} {answer.text()[:200]}")
            return False
        self._servers.prefer(server)
        return True

    def failed(self, server: Server, error: Exception) -> None:
        """Note that this server gave no answer."""
        self._failures.append(f"{server.url}: {error or type(error).__name__}")

    def unavailable(self) -> Unavailable:
        """What to raise when all have been asked: what each said."""
        return Unavailable("no registry server could answer: " + "; ".join(self._failures))


def index_of(headers: http.client.HTTPMessage) -> int:
    """The counter in an answer's headers; 0 if there is none that can be used."""
    value = headers.get("X-Consul-Index", "")
    return int(value) if re.fullmatch(r"[0-9]{1,20}", value) else 0
