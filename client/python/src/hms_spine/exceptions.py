"""What `Spine` raises, by what the caller can do about it.

`NotFound`: nobody registered that name; check the name. `CircuitOpen`: wait, or do without the service; `NonePasses` is
the kind of it that a resolver raises where the checks say so and not the calls. `Unavailable`: no registry server could be
asked. Any other `SpineError`: the registry refused the request and says why.
"""

from __future__ import annotations


class SpineError(Exception):
    """The root of everything this package raises about the registry and its services."""


class NotFound(SpineError):
    """No instance is registered under the name (and, if one was asked for, the version)."""


class CircuitOpen(SpineError):
    """The name has instances, and calling one would be a waste of time.

    From `Spine.lookup`: none of them passes its checks. From a resolver: calls to each that passes have failed.
    """

    def __init__(self, name: str, failures: int, threshold: int) -> None:
        """`failures` in a row out of the `threshold` that its check allows."""
        super().__init__(f"{name!r} temporarily unavailable ({failures}/{threshold} failures)")
        self.name = name
        self.failures = failures
        self.threshold = threshold

    def __reduce__(self) -> tuple[type[CircuitOpen], tuple[str, int, int]]:
        """Survive pickling, so that worker pools can hand the exception on."""
        return (type(self), (self.name, self.failures, self.threshold))


class NonePasses(CircuitOpen):
    """From a resolver: the name has instances, and none of them passes its checks. No call has to find that out."""


class Unavailable(SpineError):
    """No server answered, or none could decide: a write may or may not have happened.

    Everything `Spine` sends may be sent again without harm, so the remedy is to repeat the call.
    """


def trouble_of(error: Exception) -> SpineError:
    """The error itself if it is one of these; else one that has it as its cause."""
    if isinstance(error, SpineError):
        return error
    trouble = SpineError(f"{type(error).__name__}: {error}")
    trouble.__cause__ = error
    return trouble
