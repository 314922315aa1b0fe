"""The number of connections that the limit of open files leaves room for."""

from __future__ import annotations

import resource

import pytest

from exporter.web.connection_limits import connections_for_descriptors


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(64, 8), (128, 16), (512, 208), (1024, 464), (524288, 262096)]
)
def test_half_of_the_descriptors_less_a_reserve(
    descriptors: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, 1 << 20))
    assert connections_for_descriptors() == connections
