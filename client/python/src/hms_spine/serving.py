"""`Serving`: an instance that stays registered for as long as a block runs."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType

from . import operations
from .exceptions import SpineError, Unavailable
from .instance import Registration
from .transport import Transport

#: Seconds from one registration to the next.
REPEAT_INTERVAL = 10.0

#: The same for the first two repeats. By the second one, at least 2 s after the first, a registry knows that this instance
#: repeats itself, and misses it when it stops.
FIRST_INTERVAL = 3.0

#: The same after one that failed.
RETRY_INTERVAL = 1.0


class Rhythm:
    """When the next repeat is due. Pure."""

    def __init__(self) -> None:
        """Just registered."""
        self._repeats = 0
        self._has_failed = False

    def repeated(self) -> None:
        """The registry has taken a repeat."""
        self._repeats += 1
        self._has_failed = False

    def failed(self) -> None:
        """It has not."""
        self._has_failed = True

    @property
    def pause(self) -> float:
        """Seconds to wait before the next repeat."""
        if self._has_failed:
            return RETRY_INTERVAL
        return FIRST_INTERVAL if self._repeats < 2 else REPEAT_INTERVAL


class Serving:
    """A context manager: registers, repeats that, and deregisters at the end."""

    def __init__(self, transport: Transport, registration: Registration) -> None:
        """Made by `Spine.serving`."""
        self._transport = transport
        self._registration = registration
        self._rhythm = Rhythm()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"hms_spine: {registration.name}", daemon=True)

    def __enter__(self) -> Serving:
        try:
            self._transport.run(operations.register(self._registration))
        except Unavailable:
            # A service need not wait for its registry: the thread goes on trying.
            self._rhythm.failed()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._has_ended.set()
        # First, so that a repeat under way can't bring back what is taken out.
        self._thread.join()
        # A registry that can't be asked finds out by its check, or because the repeats have stopped.
        with suppress(SpineError):
            self._transport.run(operations.deregister(self._registration.name, self._registration.url))

    def _beat(self) -> None:
        while not self._has_ended.wait(self._rhythm.pause):
            try:
                self._transport.run(operations.repeat(self._registration))
                self._rhythm.repeated()
            except Exception:
                # Whatever it was: without the repeats the registry would let a living instance go.
                self._rhythm.failed()
