"""The real engine and its three containers, started once for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.engine import Engine, Three, three_containers


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A dockerd of our own."""
    with Engine() as started:
        yield started


@pytest.fixture(scope="session")
def three(engine: Engine) -> Iterator[Three]:
    """Its containers `busy`, `idle` and `restarted`."""
    with three_containers(engine) as containers:
        yield containers
