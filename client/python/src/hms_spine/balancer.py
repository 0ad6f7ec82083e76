"""Which of several instances gets the next call. Pure but for the random draw."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .exceptions import CircuitOpen, NotFound
from .instance import Instance, failed_threshold


def of_version(name: str, instances: Sequence[Instance], version: str | None) -> Sequence[Instance]:
    """Those of `instances` that carry the version (`None`: all). Raises `NotFound` if there are none."""
    found = [each for each in instances if version is None or each.is_version(version)]
    if found:
        return found
    if version is None:
        raise NotFound(f"no instance of {name!r} is registered")
    raise NotFound(f"no instance of {name!r} with version {version!r} is registered")


def passing(name: str, instances: Sequence[Instance]) -> Sequence[Instance]:
    """Those of `instances` (not empty) that may be called. Raises `CircuitOpen` if none passes its checks.

    Weight 0 means registered and healthy, but without a share. If every weight is 0, nothing says who should be
    spared, so all are equal.
    """
    found = [each for each in instances if each.passing]
    if not found:
        threshold = failed_threshold(instances)
        raise CircuitOpen(name, threshold, threshold)
    return [each for each in found if each.weight] or found


def choose(instances: Sequence[Instance]) -> Instance:
    """One of `instances` (as `passing` gives them), each with a chance in proportion to its weight."""
    weights = [instance.weight for instance in instances]
    if not any(weights):
        return random.choice(instances)
    return random.choices(instances, weights)[0]
