"""`hms_spine.aio` as if it waited, so that each test of what `Spine` means runs on both.

The event loop runs in a thread of its own; each call is handed to it, and its result waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from hms_spine import BreakerPolicy, Instance, SpineError, aio
from hms_spine.aio.serving import Serving as AioServing
from hms_spine.breaker import BREAKER

T = TypeVar("T")


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine gives or raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @contextmanager
    def within(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An asynchronous context manager as an ordinary one."""
        entered = self.run(_await(manager.__aenter__()))
        try:
            yield entered
        except BaseException as error:
            if not self.run(_await(manager.__aexit__(type(error), error, error.__traceback__))):
                raise
        else:
            self.run(_await(manager.__aexit__(None, None, None)))

    def close(self) -> None:
        """End the loop, whatever runs in it."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _await(awaitable: Any) -> Any:
    return await awaitable


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in others if task is not None), return_exceptions=True)


class Spine:
    """`aio.Spine`, waited for."""

    def __init__(self, loop: Loop, reg: str | Sequence[str], **options: float) -> None:
        self._loop = loop
        self._spine = aio.Spine(reg, **options)

    def register(self, name: str, url: str, **options: Any) -> None:
        self._loop.run(self._spine.register(name, url, **options))

    def deregister(self, name: str, url: str | None = None) -> None:
        self._loop.run(self._spine.deregister(name, url))

    def lookup(self, name: str, *, version: str | None = None) -> str:
        return self._loop.run(self._spine.lookup(name, version=version))

    @contextmanager
    def serving(self, name: str, url: str, **options: Any) -> Iterator[AioServing]:
        with self._loop.within(self._spine.serving(name, url, **options)) as serving:
            yield serving

    def resolver(self, name: str, *, breaker: BreakerPolicy = BREAKER) -> Resolver:
        return Resolver(self._loop, self._spine.resolver(name, breaker=breaker))


class Resolver:
    """`aio.Resolver`, waited for."""

    def __init__(self, loop: Loop, resolver: aio.Resolver) -> None:
        self._loop = loop
        self._resolver = resolver

    def lookup(self, *, version: str | None = None) -> str:
        return self._loop.run(self._resolver.lookup(version=version))

    @contextmanager
    def call(self, *, version: str | None = None) -> Iterator[str]:
        with self._loop.within(self._resolver.call(version=version)) as url:
            yield url

    def instances(self) -> tuple[Instance, ...]:
        return self._loop.run(self._resolver.instances())

    @property
    def trouble(self) -> SpineError | None:
        return self._resolver.trouble

    def close(self) -> None:
        self._loop.run(self._resolver.close())

    def __enter__(self) -> Resolver:
        self._loop.run(self._resolver.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
