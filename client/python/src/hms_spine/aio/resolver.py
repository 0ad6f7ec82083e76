"""`Resolver` for asyncio: the instances of one service, kept at hand by a task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType

from ..breaker import BreakerPolicy
from ..exceptions import SpineError, trouble_of
from ..instance import Instance
from ..service import Service
from ..watch import Watch
from .transport import Transport


class Resolver:
    """Answers `lookup` from memory; the registry is asked by a task, which hears of each change at once.

    While no registry server can be asked, what was told last goes on being used. Calls made through `call` feed a
    circuit breaker for each instance. The task is made at the first use, in the event loop of that, and ends with
    `close` or the `async with` block.
    """

    def __init__(self, transport: Transport, name: str, breaker: BreakerPolicy) -> None:
        """Follows `name` from its first use on. Made by `Spine.resolver`."""
        self._transport = transport
        self._service = Service(name, breaker)
        self._following: _Following | None = None

    async def lookup(self, *, version: str | None = None) -> str:
        """The URL of an instance that passes its checks and whose breaker is not open, drawn by weight.

        Raises `CircuitOpen` if there are instances and none can be called, `NotFound` if there are none, and
        `Unavailable` as long as the registry has never been reached.
        """
        return (await self._begun()).choose(version).url

    @asynccontextmanager
    async def call(self, *, version: str | None = None) -> AsyncIterator[str]:
        """`lookup` for an `async with` block that calls the URL. An exception out of the block is a failed call.

        So raise for answers that are failures too, as `raise_for_status` of HTTP packages does.
        """
        with (await self._begun()).call(version) as url:
            yield url

    async def instances(self) -> tuple[Instance, ...]:
        """All instances, whatever their health."""
        return (await self._begun()).instances()

    @property
    def trouble(self) -> SpineError | None:
        """Why the instances may be out of date: the registry can't be asked. `None` if they are not."""
        return self._service.trouble

    async def close(self) -> None:
        """Stop following. What was told last stays, and the next use would follow anew."""
        if self._following is not None:
            following, self._following = self._following, None
            following.task.cancel()
            with suppress(asyncio.CancelledError):
                await following.task

    async def __aenter__(self) -> Resolver:
        self._follow()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _begun(self) -> Service:
        await self._follow().has_begun.wait()
        return self._service

    def _follow(self) -> _Following:
        # An event loop that ended took its tasks along.
        if self._following is None or self._following.task.done():
            self._following = _Following(self._transport, self._service)
        return self._following


class _Following:
    """The task, and what it tells those who wait for the first news."""

    def __init__(self, transport: Transport, service: Service) -> None:
        # Both are made inside the loop that runs them: old Pythons bind an event to the loop at once.
        self.has_begun = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(transport, service))

    async def _run(self, transport: Transport, service: Service) -> None:
        watch = Watch(service.name)
        try:
            while True:
                try:
                    answer = await transport.request(watch.ask(time.monotonic()))
                    service.learn(watch.answered(answer))
                except Exception as error:
                    # Also what nobody foresaw: who looks up is told of it, and the task lives to ask again.
                    watch.failed()
                    service.lost(trouble_of(error))
                self.has_begun.set()
                await asyncio.sleep(watch.pause(time.monotonic()))
        finally:
            self.has_begun.set()
