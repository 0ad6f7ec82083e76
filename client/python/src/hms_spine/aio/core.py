"""`Spine` for asyncio."""

from __future__ import annotations

from collections.abc import Sequence

from .. import core, operations
from ..breaker import BREAKER, BreakerPolicy
from ..instance import Registration
from ..servers import Servers
from .resolver import Resolver
from .serving import Serving
from .transport import Transport


class Spine:
    """The registry, as a program that has or needs services sees it. Belongs to no event loop.

    Each method is that of `hms_spine.Spine`, awaited.
    """

    def __init__(self, reg: str | Sequence[str] = core.REG_URL, *, timeout: float = core.TIMEOUT) -> None:
        """`reg`: the URL of a server, or of several of one cluster; `timeout`: seconds for one server's answer."""
        self._transport = Transport(Servers(reg, timeout))

    async def register(
        self,
        name: str,
        url: str,
        *,
        id: str | None = None,
        version: str | None = None,
        weight: int | None = None,
        check: bool = True,
    ) -> None:
        """Say that `name` is served at `url`; say it again to change version, weight or check."""
        registration = Registration(name, url, id, version, weight, check)
        await self._transport.run(operations.register(registration))

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
        """`register` for the length of an `async with` block, repeated by a task, and `deregister` at its end."""
        return Serving(self._transport, Registration(name, url, id, version, weight, check))

    async def deregister(self, name: str, url: str | None = None) -> None:
        """Take the instance at `url`, or without `url` all of `name`, out of the registry. Absent is fine, too."""
        await self._transport.run(operations.deregister(name, url))

    async def lookup(self, name: str, *, version: str | None = None) -> str:
        """The URL of an instance of `name` that passes its checks, drawn by weight. Asks the registry each time."""
        return await self._transport.run(operations.lookup(name, version))

    def resolver(self, name: str, *, breaker: BreakerPolicy = BREAKER) -> Resolver:
        """Keeps the instances of `name` at hand, for programs that call it often: see `Resolver`."""
        return Resolver(self._transport, name, breaker)
