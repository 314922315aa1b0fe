"""A real containerd, started once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sources.containers.containerd import Containerd


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    with Containerd() as engine:
        yield engine
