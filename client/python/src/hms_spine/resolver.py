"""`Resolver`: the instances of one service, kept at hand by a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from .breaker import BreakerPolicy
from .exceptions import SpineError, trouble_of
from .instance import Instance
from .service import Service
from .transport import CONNECT_TIMEOUT, Cut, Line, Transport
from .watch import Watch


class Resolver:
    """Answers `lookup` from memory; the registry is asked by a thread, which hears of each change at once.

    While no registry server can be asked, what was told last goes on being used. Calls made through `call` feed a
    circuit breaker for each instance. May be shared by threads, but not by processes: make it after a fork. It holds
    a thread and a connection until `close`, or the end of its `with` block.
    """

    def __init__(self, transport: Transport, name: str, breaker: BreakerPolicy) -> None:
        """Begins to follow `name`. Made by `Spine.resolver`."""
        self._transport = transport
        self._service = Service(name, breaker)
        self._line = Line()
        self._process = os.getpid()
        # Set once there is something to say: the first list, or why there is none.
        self._has_begun = threading.Event()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"hms_spine: {name}", daemon=True)
        self._thread.start()

    def lookup(self, *, version: str | None = None) -> str:
        """The URL of an instance that passes its checks and whose breaker is not open, drawn by weight.

        Raises `CircuitOpen` if there are instances and none can be called, `NotFound` if there are none, and
        `Unavailable` as long as the registry has never been reached.
        """
        return self._begun().choose(version).url

    @contextmanager
    def call(self, *, version: str | None = None) -> Iterator[str]:
        """`lookup` for a `with` block that calls the URL. An exception out of the block is a failed call.

        So raise for answers that are failures too, as `raise_for_status` of HTTP packages does.
        """
        with self._begun().call(version) as url:
            yield url

    def instances(self) -> tuple[Instance, ...]:
        """All instances, whatever their health."""
        return self._begun().instances()

    @property
    def trouble(self) -> SpineError | None:
        """Why the instances may be out of date: the registry can't be asked. `None` if they are not."""
        return self._service.trouble

    def close(self) -> None:
        """Stop following. What was told last stays."""
        self._has_ended.set()
        self._line.cut()
        # A connection that is being made can't be cut.
        self._thread.join(2 * CONNECT_TIMEOUT)

    def __enter__(self) -> Resolver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _begun(self) -> Service:
        if os.getpid() != self._process:
            raise RuntimeError("this resolver's thread stayed in the parent process: make a resolver after the fork")
        self._has_begun.wait()
        return self._service

    def _follow(self) -> None:
        watch = Watch(self._service.name)
        try:
            while not self._has_ended.is_set():
                try:
                    answer = self._transport.request(watch.ask(time.monotonic()), self._line)
                    self._service.learn(watch.answered(answer))
                except Cut:
                    break
                except Exception as error:
                    # Also what nobody foresaw: who looks up is told of it, and the thread lives to ask again.
                    watch.failed()
                    self._service.lost(trouble_of(error))
                self._has_begun.set()
                self._has_ended.wait(watch.pause(time.monotonic()))
        finally:
            self._has_begun.set()
