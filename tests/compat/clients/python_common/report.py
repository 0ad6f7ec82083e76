"""What the scripts for both Python clients share: one line for each check, and the proof that a query stays blocked."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

#: Seconds in which a server under test has to do what it does at once; generous, for loaded machines.
SOON = 10.0
#: Seconds for which a blocked query is watched after writes elsewhere: if they woke it, it would be within milliseconds.
QUIET = 0.7


class Report:
    """Runs checks and prints `ok NAME` or `FAIL NAME why` for each."""

    def __init__(self) -> None:
        self.failed = 0

    def check(self, name: str, run: Callable[[], None]) -> None:
        """Run one check; whatever it raises is its failure."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 a check may fail in any way
            self.failed += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAIL {name} line {place.lineno}: {place.line}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"ok {name}", flush=True)


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    """The first true value of `condition`, which has to come soon."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {SOON} s: {what}")


def raises(kind: type[Exception], text: str, call: Callable[[], Any]) -> None:
    """`call` raises `kind` with `text` in its message."""
    try:
        answer = call()
    except kind as error:
        assert text in str(error), f"{text!r} is not in {error!r}"
    else:
        raise AssertionError(f"answered {answer!r} instead of {kind.__name__}")


def wakes_only_for(
    query: Callable[..., tuple[str, Any]],
    elsewhere: Callable[[], Any],
    here: Callable[[], Any],
) -> Any:
    """Hold `query` open; writes `elsewhere` must leave it alone, a write `here` must wake it.

    `query(index=…, wait=…)` must not share a connection with the two writers. Gives what it answered at last.
    """
    before, _ = query()
    answers: list[tuple[str, Any]] = []
    blocked = threading.Thread(target=lambda: answers.append(query(index=before, wait="30s")), daemon=True)
    blocked.start()
    elsewhere()
    blocked.join(QUIET)
    assert blocked.is_alive(), f"woken by a write elsewhere: index {before}, then {answers}"
    here()
    blocked.join(SOON)
    assert not blocked.is_alive(), "not woken by its own change"
    after, value = answers[0]
    assert int(after) > int(before), f"woken with index {after} after {before}"
    return value
