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


def passing(name: str, instances: Sequence[Instance], none: type[CircuitOpen] = CircuitOpen) -> Sequence[Instance]:
    """Those of `instances` (not empty) that pass their checks. Raises `none` if there are none."""
    found = [each for each in instances if each.passing]
    if not found:
        threshold = failed_threshold(instances)
        raise none(name, threshold, threshold)
    return found


def sharing(instances: Sequence[Instance]) -> Sequence[Instance]:
    """Those of `instances` (as `passing` gives them) that may be drawn.

    Weight 0 means registered and healthy, but without a share. If every weight is 0, nothing says who should be
    spared, so all are equal.
    """
    return [each for each in instances if each.weight] or instances


def choose(instances: Sequence[Instance]) -> Instance:
    """One of `instances` (as `sharing` gives them), each with a chance in proportion to its weight."""
    weights = [instance.weight for instance in instances]
    if not any(weights):
        return random.choice(instances)
    return random.choices(instances, weights)[0]
