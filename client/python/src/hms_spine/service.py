"""One service as this process knows it: the instances that the registry told last, and how calls to them went.

Pure but for a lock: `Resolver`, of which there is one for threads and one for asyncio, brings the news and waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from .balancer import choose, of_version, passing, sharing
from .breaker import Breaker, BreakerPolicy
from .exceptions import CircuitOpen, NonePasses, SpineError, Unavailable
from .instance import Instance


class Service:
    """Instances and breakers of one name. May be shared by threads."""

    def __init__(self, name: str, policy: BreakerPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is known yet. `clock`: seconds from any beginning."""
        if not name:
            raise ValueError("a service needs a name")
        self.name = name
        self._policy = policy
        self._clock = clock
        # Held for a few lines of arithmetic at a time, never while anything waits.
        self._lock = threading.Lock()
        self._instances: tuple[Instance, ...] | None = None
        self._breakers: dict[tuple[str, str, str], Breaker] = {}
        self._trouble: SpineError | None = None

    def learn(self, instances: Sequence[Instance]) -> None:
        """The registry told this list."""
        with self._lock:
            failing = {_key(each) for each in self._instances or () if not each.passing}
            breakers = {}
            for each in instances:
                key = _key(each)
                # The registry's own probes say that it is back: no caller has to find out.
                is_back = key in failing and each.passing
                known = None if is_back else self._breakers.get(key)
                breakers[key] = known or Breaker(self._policy)
            self._instances = tuple(instances)
            self._breakers = breakers
            self._trouble = None

    def lost(self, trouble: SpineError) -> None:
        """The registry could not be asked. What it told last goes on being used."""
        with self._lock:
            self._trouble = trouble

    @property
    def trouble(self) -> SpineError | None:
        """Why the instances may be out of date, if they may."""
        with self._lock:
            return self._trouble

    def instances(self) -> tuple[Instance, ...]:
        """All of them, whatever their health."""
        with self._lock:
            return self._told()

    def choose(self, version: str | None = None) -> Instance:
        """An instance that passes its checks and whose breaker is closed, drawn by weight.

        Nobody will tell how its call went, so it is no probe: an instance that waits for one is left to `call`, unless
        there is no other.
        """
        with self._lock:
            healthy = self._healthy(version)
            return self._drawn(healthy) or self._to_probe(healthy, self._clock()) or self._nobody()

    @contextmanager
    def call(self, version: str | None = None) -> Iterator[str]:
        """Choose an instance for the block, and count how it ends: an `Exception` is a failure of the instance.

        One whose breaker waits for a probe is the next: that call tells whether it is back. What isn't an `Exception`, a cancelled task or Ctrl-C, says nothing about the instance.
        """
        with self._lock:
            healthy = self._healthy(version)
            now = self._clock()
            instance = self._to_probe(healthy, now) or self._drawn(healthy) or self._nobody()
            breaker = self._breakers[_key(instance)]
            period = breaker.begin(now)
        try:
            yield instance.url
        except Exception:
            with self._lock:
                breaker.failed(period, self._clock())
            raise
        except BaseException:
            with self._lock:
                breaker.abandoned(period, self._clock())
            raise
        with self._lock:
            breaker.succeeded(period)

    def _told(self) -> tuple[Instance, ...]:
        if self._instances is None:
            raise Unavailable(f"the registry has told nothing about {self.name!r}: {self._trouble}") from self._trouble
        return self._instances

    def _healthy(self, version: str | None) -> Sequence[Instance]:
        return passing(self.name, of_version(self.name, self._told(), version), NonePasses)

    def _to_probe(self, healthy: Sequence[Instance], now: float) -> Instance | None:
        """The first that waits for a probe, whatever its weight."""
        return next((each for each in healthy if self._breakers[_key(each)].awaits_probe(now)), None)

    def _drawn(self, healthy: Sequence[Instance]) -> Instance | None:
        """One of those that have a share and a closed breaker."""
        closed = [each for each in sharing(healthy) if self._breakers[_key(each)].is_closed]
        return choose(closed) if closed else None

    def _nobody(self) -> NoReturn:
        raise CircuitOpen(self.name, self._policy.failures, self._policy.failures)


def _key(instance: Instance) -> tuple[str, str, str]:
    # The URL too: an instance that moved begins anew.
    return (instance.node, instance.id, instance.url)
