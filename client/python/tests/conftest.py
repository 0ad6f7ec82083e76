"""Fixtures: a registry in memory, and a `Spine` on it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from hms_spine import Spine

from .registry import Registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.close()


@pytest.fixture
def spine(registry: Registry) -> Spine:
    return Spine(registry.url)


@pytest.fixture(autouse=True)
def same_draws_each_run() -> None:
    random.seed(8500)
