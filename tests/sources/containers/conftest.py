"""The real engines and their three containers, each started once for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sources.containers.engine import Engine
from tests.sources.containers.engines import KINDS, chosen
from tests.sources.containers.shared_containers import Three, three_containers


@pytest.fixture(scope="session", params=chosen())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine of our own, one kind after the other."""
    with KINDS[request.param]() as started:
        yield started


@pytest.fixture(scope="session")
def three(engine: Engine) -> Iterator[Three]:
    """Its containers `busy`, `idle` and `restarted`."""
    with three_containers(engine) as containers:
        yield containers
