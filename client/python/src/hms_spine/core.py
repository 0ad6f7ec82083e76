"""`Spine`: register, deregister, lookup; and from there a `Resolver`, or a service that stays registered."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import operations
from .breaker import BREAKER, BreakerPolicy
from .instance import Registration
from .resolver import Resolver
from .servers import Servers
from .serving import Serving
from .transport import Transport

#: Where the registry is unless `Spine` is told.
REG_URL = os.getenv("REG_URL", "http://localhost:8500")

#: Seconds: a server gives up after 5 s itself and then says why, which is worth hearing.
TIMEOUT = 7.0


class Spine:
    """The registry, as a program that has or needs services sees it. May be shared by threads."""

    def __init__(self, reg: str | Sequence[str] = REG_URL, *, timeout: float = TIMEOUT) -> None:
        """`reg`: the URL of a server, or of several of one cluster; `timeout`: seconds for one server's answer."""
        self._transport = Transport(Servers(reg, timeout))

    def register(
        self,
        name: str,
        url: str,
        *,
        id: str | None = None,
        version: str | None = None,
        weight: int | None = None,
        check: bool = True,
    ) -> None:
        """Say that `name` is served at `url`; say it again to change version, weight or check.

        `id` is made from name and URL unless given, so a second URL is a second instance. `weight`: the share of
        calls relative to the other instances (1 if not given; 0: none). `check`: have the registry probe
        `url + "/health"`, and take the instance out of `lookup` while that fails.
        """
        registration = Registration(name, url, id, version, weight, check)
        self._transport.run(operations.register(registration))

    def serving(
        self,
        name: str,
        url: str,
        *,
        id: str | None = None,
        version: str | None = None,
        weight: int | None = None,
        check: bool = True,
    ) -> Serving:
        """`register` for the length of a `with` block, which a thread repeats, and `deregister` at its end.

        So a registry that lost its data learns the instance again. Without a `check`, the repeats are its sign of
        life: if they stop, a registry that gives services a time to live lets the instance go. A registry that is away
        at the beginning hears of it as soon as it is there; what it refuses is raised.
        """

        return Serving(self._transport, Registration(name, url, id, version, weight, check))

    def deregister(self, name: str, url: str | None = None) -> None:
        """Take the instance at `url`, or without `url` all of `name`, out of the registry. Absent is fine, too."""
        self._transport.run(operations.deregister(name, url))

    def lookup(self, name: str, *, version: str | None = None) -> str:
        """The URL of an instance of `name` that passes its checks, drawn by weight. Asks the registry each time.

        Raises `CircuitOpen` if there are instances and none passes, `NotFound` if there are none.
        """
        return self._transport.run(operations.lookup(name, version))

    def resolver(self, name: str, *, breaker: BreakerPolicy = BREAKER) -> Resolver:
        """Keeps the instances of `name` at hand, for programs that call it often: see `Resolver`."""
        return Resolver(self._transport, name, breaker)
