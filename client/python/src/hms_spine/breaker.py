"""A circuit breaker: whether one instance should be called, as told by the calls to it.

```text
              `failures` in a row                 `rest` seconds
    closed ------------------------> open ------------------------> half open
      ^  ^                            ^                                |   |
      |  |                            +----------- it fails -----------+   |
      |  +--------------------------------------- it succeeds -------------+
      +-- the registry's own check of the instance passes again
```

Half open, one call at a time is let through: the probe. One that tells nothing for another rest is lost, and the next goes.
Pure: whoever asks says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BreakerPolicy:
    """When an instance is no longer called, and for how long."""

    #: Failed calls in a row that open the breaker.
    failures: int = 3
    #: Seconds until a call may find out whether the instance is back.
    rest: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what would never close, or never be closed."""
        if self.failures < 1 or self.rest < 0:
            raise ValueError("a breaker opens after at least 1 failure and rests for at least 0 seconds")


#: What a resolver does unless it is told.
BREAKER = BreakerPolicy()


class Breaker:
    """The breaker of one instance; not to be shared by threads without a lock."""

    def __init__(self, policy: BreakerPolicy) -> None:
        """Closed."""
        self._policy = policy
        self._failures = 0
        # When the next call may begin, the probe; `None`: closed. While a probe is under way, when it counts as lost.
        self._due: float | None = None
        self._probe_is_under_way = False
        # Calls know the period in which they began: what one of an earlier period tells is no longer news.
        self._period = 0

    @property
    def is_closed(self) -> bool:
        """Whether every call may begin."""
        return self._due is None

    def awaits_probe(self, now: float) -> bool:
        """Whether one call may begin, and tell whether the instance is back."""
        return self._due is not None and self._due <= now

    def begin(self, now: float) -> int:
        """A call begins that may; gives its period, to be handed back at its end."""
        if not self.is_closed:
            self._enter(now + self._policy.rest)
            self._probe_is_under_way = True
        return self._period

    def succeeded(self, period: int) -> None:
        """A call was answered."""
        if period != self._period:
            return
        self._failures = 0
        if not self.is_closed:
            self._enter(None)

    def failed(self, period: int, now: float) -> None:
        """A call failed."""
        if period != self._period:
            return
        self._failures += 1
        if not self.is_closed or self._failures >= self._policy.failures:
            self._enter(now + self._policy.rest)

    def abandoned(self, period: int, now: float) -> None:
        """A call ended without telling anything: another one may be the probe."""
        if period == self._period and self._probe_is_under_way:
            self._enter(now)

    def _enter(self, due: float | None) -> None:
        self._due = due
        self._failures = 0
        self._probe_is_under_way = False
        self._period += 1
