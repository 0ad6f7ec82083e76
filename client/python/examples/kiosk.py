"""A service that is registered while it runs, on asyncio: `python kiosk.py photo`. Ends when its input does."""

import asyncio
import sys

from hms_spine import aio


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nup\n")
    await writer.drain()
    writer.close()


async def main(name: str) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        # First the port, then the registration: whoever finds it may call it.
        url = "http://127.0.0.1:{}".format(server.sockets[0].getsockname()[1])
        async with aio.Spine().serving(name, url, version="v1"):
            print("serving at", url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(sys.argv[1]))
