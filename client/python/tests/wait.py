"""Waiting for a condition, with a deadline: the only way in which the tests spend time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_DEADLINE = 30.0
_PAUSE = 0.005


def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    end = time.monotonic() + _DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {_DEADLINE:g} s"
        threading.Event().wait(_PAUSE)


def gives(call: Callable[[], object]) -> str:
    """What a call gives, or the name of what it raises: for conditions."""
    try:
        return str(call())
    except Exception as error:
        return type(error).__name__
