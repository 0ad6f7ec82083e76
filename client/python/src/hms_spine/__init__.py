"""Register services with Spine and find them again.

`Spine` is the whole interface; `exceptions` holds what it raises. The modules behind it, downwards: `core` asks the
registry, `instance` turns its answers into values, `balancer` picks one of them, `transport` carries bytes.
"""

from .core import REG_URL, Spine
from .exceptions import CircuitOpen, NotFound, SpineError, Unavailable

__all__ = ["REG_URL", "CircuitOpen", "NotFound", "Spine", "SpineError", "Unavailable"]
__version__ = "0.1.0"
