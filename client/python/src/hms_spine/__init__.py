"""Register services with Spine and find them again.

`Spine` is the whole interface, and `aio.Spine` the same for asyncio; `exceptions` holds what they raise. The modules
behind them fall in two. Pure ones decide: `operations` (what is asked), `instance` (the registry's JSON as values), `balancer`
(which instance is next), `breaker`, `service` and `watch` (what a resolver knows, and asks next), `servers` (who is
asked first). Those that wait, `transport`, `resolver`, `serving` and `core`, exist twice: for threads, and under `aio`.
"""

from .breaker import BreakerPolicy
from .core import REG_URL, Spine
from .exceptions import CircuitOpen, NonePasses, NotFound, SpineError, Unavailable
from .instance import Check, Instance
from .resolver import Resolver

__all__ = [
    "REG_URL",
    "BreakerPolicy",
    "Check",
    "CircuitOpen",
    "Instance",
    "NonePasses",
    "NotFound",
    "Resolver",
    "Spine",
    "SpineError",
    "Unavailable",
]
__version__ = "0.1.0"
