"""HTTP over asyncio's streams. The standard library reads the answers' heads; see `hms_spine.transport` for the rest."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import ssl
from typing import cast

from .. import transport as bounds
from ..message import Answer, Operation, Request, T
from ..servers import Server, Servers, index_of
from ..transport import CONNECT_TIMEOUT, HEADERS, too_long

_HEAD_BYTES_MAX = 64 * 1024
_PIECE_BYTES = 64 * 1024


class Transport:
    """Carries requests for tasks. Belongs to no event loop: each request makes its own connection."""

    def __init__(self, servers: Servers) -> None:
        """To any of these servers."""
        self._servers = servers

    async def run(self, operation: Operation[T]) -> T:
        """Carry out an operation from beginning to end."""
        try:
            request = next(operation)
            while True:
                request = operation.send(await self.request(request))
        except StopIteration as end:
            result: T = end.value
            return result

    async def request(self, request: Request) -> Answer:
        """The first usable answer. If the task is cancelled, the connection is closed."""
        timeout = self._servers.timeout(request)
        turns = self._servers.round()
        for server in turns:
            try:
                answer = await _ask(server, request, timeout)
            except (OSError, EOFError, http.client.HTTPException, asyncio.TimeoutError) as error:
                turns.failed(server, error)
                continue
            if turns.settled_by(server, answer):
                return answer
        raise turns.unavailable()


async def _ask(server: Server, request: Request, timeout: float) -> Answer:
    secure = ssl.create_default_context() if server.secure else None
    connecting = asyncio.open_connection(server.host, server.port, ssl=secure, limit=_HEAD_BYTES_MAX)
    reader, writer = await asyncio.wait_for(connecting, CONNECT_TIMEOUT)
    try:
        writer.write(_sent(server, request))
        return await asyncio.wait_for(_answer(server, reader), timeout)
    finally:
        # Nothing is left to be sent: closing need not be waited for.
        writer.close()


def _sent(server: Server, request: Request) -> bytes:
    """The request as it travels. `http.client` would write it to its own socket only."""
    body = request.body or b""
    host = f"[{server.host}]" if ":" in server.host else server.host
    headers = {"Host": f"{host}:{server.port}", **HEADERS, "Content-Length": str(len(body))}
    lines = [f"{request.method} {server.prefix + request.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


async def _answer(server: Server, reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise http.client.HTTPException(f"a head of more than {_HEAD_BYTES_MAX} bytes") from error
    response = _parsed(head)
    if response.length is not None:
        if response.length > bounds.ANSWER_BYTES_MAX:
            raise too_long(server)
        body = await reader.readexactly(response.length)
    else:
        # In chunks, or up to the end: every request asks for the connection to be closed behind the answer.
        body = _parsed(head + await _rest(server, reader)).read()
    return Answer(response.status, body, index_of(response.headers))


async def _rest(server: Server, reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while piece := await reader.read(_PIECE_BYTES):
        content += piece
        if len(content) > bounds.ANSWER_BYTES_MAX:
            raise too_long(server)
    return bytes(content)


def _parsed(received: bytes) -> http.client.HTTPResponse:
    # Of a socket, the class below uses `makefile` and nothing else.
    response = http.client.HTTPResponse(cast("socket.socket", _Received(received)))
    response.begin()
    return response


class _Received:
    """Bytes that were received already, in the place of the socket that `HTTPResponse` reads from."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)
