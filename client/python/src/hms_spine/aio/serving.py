"""`Serving` for asyncio: an instance that stays registered for as long as a block runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

from .. import operations
from ..exceptions import SpineError, Unavailable
from ..instance import Registration
from ..serving import Rhythm
from .transport import Transport


class Serving:
    """An asynchronous context manager: registers, repeats that, and deregisters at the end."""

    def __init__(self, transport: Transport, registration: Registration) -> None:
        """Made by `Spine.serving`."""
        self._transport = transport
        self._registration = registration
        self._rhythm = Rhythm()
        self._beating: tuple[asyncio.Event, asyncio.Task[None]] | None = None

    async def __aenter__(self) -> Serving:
        try:
            await self._transport.run(operations.register(self._registration))
        except Unavailable:
            # A service need not wait for its registry: the task goes on trying.
            self._rhythm.failed()
        has_ended = asyncio.Event()
        self._beating = (has_ended, asyncio.get_running_loop().create_task(self._beat(has_ended)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._beating is not None:
            has_ended, task = self._beating
            has_ended.set()
            # Not cancelled: a repeat under way could bring back what is taken out.
            await task
        # A registry that can't be asked finds out by its check, or because the repeats have stopped.
        with suppress(SpineError):
            await self._transport.run(operations.deregister(self._registration.name, self._registration.url))

    async def _beat(self, has_ended: asyncio.Event) -> None:
        while not has_ended.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(has_ended.wait(), self._rhythm.pause)
                break
            try:
                await self._transport.run(operations.repeat(self._registration))
                self._rhythm.repeated()
            except Exception:
                # Whatever it was: without the repeats the registry would let a living instance go.
                self._rhythm.failed()
