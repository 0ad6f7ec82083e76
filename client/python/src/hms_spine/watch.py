"""How to follow one service: what to ask next, and when. Pure: whoever asks says what time it is.

A blocking query names the index of the answer before, and is answered once there is a newer one. So there is always
one question under way, and news arrive as fast as the answer travels.
"""

from __future__ import annotations

import random

from .instance import Instance
from .message import Answer, Request
from .operations import health, instances_in

#: Seconds that the registry may hold back its answer. A server that died without a word is noticed that much later.
WAIT = 20.0

# Seconds from one question to the next, at least: a service that changes without end is asked about 20 times a second.
_INTERVAL_MIN = 0.05

# Seconds to wait after no server could answer, doubled each time.
_PAUSE_MIN = 0.1
_PAUSE_MAX = 2.0

# Seconds from one question to the next where the answers have no index, so that none can wait for news.
_POLL = 5.0


class Watch:
    """Where one follower stands."""

    def __init__(self, name: str) -> None:
        """At the beginning: the first question is answered at once."""
        self._name = name
        self._index = 0
        self._asked = 0.0
        self._failures = 0

    def ask(self, now: float) -> Request:
        """The next question. After a failure it doesn't wait: whether the registry is there again is news, too."""
        self._asked = now
        return health(self._name, 0 if self._failures else self._index, WAIT)

    def answered(self, answer: Answer) -> list[Instance]:
        """The instances in the answer. Raises `SpineError` if it holds none, which counts as a failure."""
        instances = instances_in(answer)
        # It may have fallen: a registry that lost its data begins again, and so does who follows it.
        self._index = answer.index
        self._failures = 0
        return instances

    def failed(self) -> None:
        """There was no answer, or none that can be used."""
        self._failures += 1

    def pause(self, now: float) -> float:
        """Seconds to wait before the next question."""
        if self._failures:
            # Half of it is drawn, so that clients which failed together come back apart.
            doublings = min(self._failures - 1, 10)
            pause = min(_PAUSE_MIN * (1 << doublings), _PAUSE_MAX)
            return pause * random.uniform(0.5, 1.0)
        if not self._index:
            return _POLL
        return max(0.0, self._asked + _INTERVAL_MIN - now)
