"""Real engines and their three containers, started once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sources.containers.engine import Engine
from tests.sources.containers.engines import KINDS, selected
from tests.sources.containers.shared_containers import Three, three_containers


@pytest.fixture(scope="session", params=selected())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine started for the tests, of each kind in turn."""
    with KINDS[request.param]() as engine:
        yield engine


@pytest.fixture(scope="session")
def three(engine: Engine) -> Iterator[Three]:
    """Its containers `busy`, `idle` and `restarted`."""
    with three_containers(engine) as containers:
        yield containers
