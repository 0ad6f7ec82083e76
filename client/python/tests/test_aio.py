"""What only asyncio has: cancelling, many at once in one thread, and loops that end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from hms_spine import aio

from .registry import Registry

URL = "http://localhost:8002"


async def until(condition: Callable[[], bool]) -> None:
    async def held() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(held(), 30.0)


def test_a_cancelled_call_hangs_up() -> None:
    hung_up = asyncio.run(_cancel_a_lookup())
    assert hung_up == b""


async def _cancel_a_lookup() -> bytes:
    asked = asyncio.Event()
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        heard.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lookup = asyncio.create_task(aio.Spine(f"http://127.0.0.1:{port}").lookup("photo"))
    await asked.wait()
    lookup.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lookup
    hung_up = await asyncio.wait_for(heard, 30.0)
    server.close()
    return hung_up


def test_fifty_services_are_followed_without_a_thread_more(registry: Registry) -> None:
    names = [f"svc-{number}" for number in range(50)]

    async def main() -> None:
        spine = aio.Spine(registry.url)
        await asyncio.gather(*(spine.register(name, URL) for name in names))
        resolvers = [spine.resolver(name) for name in names]
        found = await asyncio.gather(*(resolver.lookup() for resolver in resolvers))
        assert found == [URL] * len(names)
        await until(lambda: registry.waiting == len(names))
        ours = {thread for thread in threading.enumerate() if "process_request_thread" not in thread.name}
        assert ours <= before
        await asyncio.gather(*(resolver.close() for resolver in resolvers))

    before = set(threading.enumerate())
    asyncio.run(main())


def test_a_resolver_outlives_its_event_loop(registry: Registry) -> None:
    spine = aio.Spine(registry.url)
    resolver = spine.resolver("photo")

    async def main() -> str:
        await spine.register("photo", URL)
        return await resolver.lookup()

    assert asyncio.run(main()) == URL
    assert asyncio.run(main()) == URL


def test_cancelling_who_waits_for_the_first_answer_does_not_end_following(registry: Registry) -> None:
    async def main() -> None:
        spine = aio.Spine(registry.url)
        async with spine.resolver("photo") as resolver:
            first = asyncio.create_task(resolver.lookup())
            await asyncio.sleep(0)
            first.cancel()
            await spine.register("photo", URL)
            found: list[str] = []

            async def finds() -> None:
                while not found:
                    try:
                        found.append(await resolver.lookup())
                    except Exception:
                        await asyncio.sleep(0.005)

            await asyncio.wait_for(finds(), 30.0)
            assert found == [URL]

    asyncio.run(main())
