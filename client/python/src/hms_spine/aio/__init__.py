"""The same for asyncio: `Spine`, whose calls are awaited, and its `Resolver`.

What is asked and what is made of the answers is the very code of the package above. Only the carrying is its own: asyncio's
streams, not threads behind an executor. A resolver has a query under way all the time; of a hundred services that
would be a hundred threads that do nothing but wait, and a task that is cancelled could not end them.
"""

from .core import Spine
from .resolver import Resolver

__all__ = ["Resolver", "Spine"]
