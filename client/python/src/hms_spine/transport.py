"""HTTP by the standard library alone, for threads.

Why no HTTP package: a registry client sits in every service of a fleet, next to whatever version of `requests` or
`httpx` that service needs, and it makes small calls of one kind. Why a connection for each call: nothing is shared
between threads or inherited over a fork, and a kept connection that the server closed meanwhile can't turn a good
call into an error. Proxy settings of the environment are not followed: a registry is reached directly.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading

from .exceptions import SpineError
from .message import Answer, Operation, Request, T
from .servers import Server, Servers, index_of

#: Seconds to wait for a connection: short, because the next server may answer.
CONNECT_TIMEOUT = 2.0

#: Bytes of an answer that are read at most; what is longer is refused, not cut.
ANSWER_BYTES_MAX = 64 * 1024 * 1024

#: What is sent with every request.
HEADERS = {"Accept": "application/json", "Connection": "close"}

_PIECE_BYTES = 64 * 1024


class Cut(Exception):
    """The request was given up by `Line.cut`. Nobody but who cut it sees this."""


class Line:
    """The connection that a thread waits on, so that another thread can make it stop waiting."""

    def __init__(self) -> None:
        """Not connected, and not cut."""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def attach(self, connected: socket.socket | None) -> None:
        """From here on, `cut` ends what is read from this socket (`None`: there is none now)."""
        with self._lock:
            if self._is_cut:
                raise Cut
            self._socket = connected

    def cut(self) -> None:
        """End the request under way, and every later one."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side was faster


class Transport:
    """Carries requests for the thread that calls."""

    def __init__(self, servers: Servers) -> None:
        """To any of these servers."""
        self._servers = servers

    def run(self, operation: Operation[T]) -> T:
        """Carry out an operation from beginning to end."""
        try:
            request = next(operation)
            while True:
                request = operation.send(self.request(request))
        except StopIteration as end:
            result: T = end.value
            return result

    def request(self, request: Request, line: Line | None = None) -> Answer:
        """The first usable answer. With a `line`, another thread can cut it: then it raises `Cut`."""
        line = line or Line()
        timeout = self._servers.timeout(request)
        turns = self._servers.round()
        for server in turns:
            try:
                answer = _ask(server, request, timeout, line)
            except (OSError, http.client.HTTPException) as error:
                line.attach(None)  # a cut looks like a failure of the server, and is none
                turns.failed(server, error)
                continue
            if turns.settled_by(server, answer):
                return answer
        raise turns.unavailable()


def _ask(server: Server, request: Request, timeout: float, line: Line) -> Answer:
    connection = _connection(server)
    try:
        connection.connect()
        connection.sock.settimeout(timeout)
        line.attach(connection.sock)
        connection.request(request.method, server.prefix + request.target, body=request.body, headers=HEADERS)
        response = connection.getresponse()
        return Answer(response.status, _read(server, response), index_of(response.headers))
    finally:
        connection.close()


def _connection(server: Server) -> http.client.HTTPConnection:
    if server.secure:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(server.host, server.port, timeout=CONNECT_TIMEOUT, context=context)
    return http.client.HTTPConnection(server.host, server.port, timeout=CONNECT_TIMEOUT)


def _read(server: Server, response: http.client.HTTPResponse) -> bytes:
    # In pieces: asked for all at once, old Pythons set the whole bound's memory aside for each answer.
    content = bytearray()
    while piece := response.read(_PIECE_BYTES):
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise too_long(server)
    if response.length:
        # Read in pieces, an answer that breaks off doesn't say so by itself.
        raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def too_long(server: Server) -> SpineError:
    """The refusal of an answer beyond the bound."""
    return SpineError(f"the answer of {server.url} is longer than {ANSWER_BYTES_MAX} bytes")
