"""Which of several instances gets the next call. Pure but for the random draw."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .instance import Instance


def choose(instances: Sequence[Instance]) -> Instance:
    """One of `instances` (not empty), each with a chance in proportion to its weight.

    Weight 0 means registered and healthy, but without a share. If every weight is 0, nothing says who should be
    spared, so all are equal.
    """
    weights = [instance.weight for instance in instances]
    if not any(weights):
        return random.choice(instances)
    return random.choices(instances, weights)[0]
