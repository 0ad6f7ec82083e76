"""What is sent to a registry and what comes back, without a socket in sight.

Every question of this package is an *operation*: a generator that yields requests, is sent the answers, and returns what
the caller asked for. Who carries them, a thread that waits or a task of an event loop, is not its business; so each
rule is written once for both.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from .exceptions import SpineError

T = TypeVar("T")

#: Yields requests, is sent answers, returns a `T`.
Operation = Generator["Request", "Answer", T]


@dataclass(frozen=True)
class Request:
    """One HTTP request, to whichever server takes it."""

    method: str
    #: Percent-encoded.
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    #: Seconds for which the server is asked to hold back its answer until there is news.
    wait: float = 0.0

    @property
    def target(self) -> str:
        """Path and query."""
        query = {**self.query, "wait": f"{self.wait:g}s"} if self.wait else self.query
        return self.path + ("?" + urlencode(query, quote_via=quote) if query else "")


@dataclass(frozen=True)
class Answer:
    """What a server said: any status below 500 except 429."""

    status: int
    body: bytes
    #: The registry's counter for what was asked; 0 if the server doesn't tell it.
    index: int = 0

    def json(self) -> Any:
        """The body as a JSON document."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise SpineError(f"the registry answered something that is not JSON: {self.text()[:200]!r}") from error

    def text(self) -> str:
        """The body as text, for messages."""
        return self.body.decode("utf-8", "replace").strip()

    def done(self) -> Answer:
        """This answer, if it isn't a refusal."""
        if self.status >= 300:
            raise SpineError(f"the registry refused: {self.status} {self.text()}")
        return self
