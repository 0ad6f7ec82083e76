"""Fixtures: a registry in memory, and a `Spine` on it, once for threads and once for asyncio."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Union

import pytest

import hms_spine

from . import bridge
from .registry import Registry

#: Either kind; the second has the methods of the first.
AnySpine = Union[hms_spine.Spine, bridge.Spine]


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.close()


@pytest.fixture
def second() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.close()


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., AnySpine]]:
    """Makes a `Spine` of the kind under test."""
    if request.param == "threads":
        yield hms_spine.Spine
        return
    loop = bridge.Loop()
    yield lambda *arguments, **options: bridge.Spine(loop, *arguments, **options)
    loop.close()


@pytest.fixture
def spine(connect: Callable[..., AnySpine], registry: Registry) -> AnySpine:
    return connect(registry.url)


@pytest.fixture(autouse=True)
def same_draws_each_run() -> None:
    random.seed(8500)
